#!/bin/sh
# The old name of `invoke backup.create`.
set -eu
case ${1:-} in
  -h | --help) echo "Usage: scripts/backup.sh [daily|weekly|monthly] [OPTIONS of invoke backup.create]"; exit 0 ;;
esac
CDPATH="" cd -- "$(dirname -- "$0")/.."
if [ -x .venv/bin/python ]; then exec .venv/bin/python -m invoke backup.create "$@"; else exec invoke backup.create "$@"; fi
