#!/bin/sh
# The old name of `invoke secrets.render --files-only`.
set -eu
case ${1:-} in
  -h | --help) echo "Usage: docker/secrets/create_secrets.sh [OPTIONS of invoke secrets.render: --check --dry-run --json]"; exit 0 ;;
esac
CDPATH="" cd -- "$(dirname -- "$0")/../.."
if [ -x .venv/bin/python ]; then exec .venv/bin/python -m invoke secrets.render --files-only "$@"; else exec invoke secrets.render --files-only "$@"; fi
