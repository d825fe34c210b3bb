#!/bin/sh
# The old name of `invoke secrets.render`.
set -eu
case ${1:-} in
  -h | --help) echo "Usage: scripts/decrypt-secrets.sh [OPTIONS of invoke secrets.render: --check --env-only --files-only --dry-run --json]"; exit 0 ;;
esac
CDPATH="" cd -- "$(dirname -- "$0")/.."
if [ -x .venv/bin/python ]; then exec .venv/bin/python -m invoke secrets.render "$@"; else exec invoke secrets.render "$@"; fi
