#!/bin/sh
# The old name of `invoke backup.verify`.
set -eu
case ${1:-} in
  -h | --help) echo "Usage: scripts/backup-verify.sh [NAME] [OPTIONS of invoke backup.verify]; without NAME all"; exit 0 ;;
esac
CDPATH="" cd -- "$(dirname -- "$0")/.."
if [ -x .venv/bin/python ]; then exec .venv/bin/python -m invoke backup.verify "$@"; else exec invoke backup.verify "$@"; fi
