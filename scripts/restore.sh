#!/bin/sh
# The old name of `invoke backup.restore`.
set -eu
case ${1:-} in
  -h | --help) echo "Usage: scripts/restore.sh [NAME [--force]] [OPTIONS of invoke backup.restore]; without NAME it lists what there is"; exit 0 ;;
esac
CDPATH="" cd -- "$(dirname -- "$0")/.."
if [ -x .venv/bin/python ]; then exec .venv/bin/python -m invoke backup.restore "$@"; else exec invoke backup.restore "$@"; fi
