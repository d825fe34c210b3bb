#!/bin/sh
# The old name of `invoke backup.cron`.
set -eu
case ${1:-} in
  -h | --help) echo "Usage: scripts/setup-cron-backups.sh install|status|uninstall"; exit 0 ;;
  "") echo "Usage: scripts/setup-cron-backups.sh install|status|uninstall" >&2; exit 2 ;;
esac
CDPATH="" cd -- "$(dirname -- "$0")/.."
if [ -x .venv/bin/python ]; then exec .venv/bin/python -m invoke backup.cron "$@"; else exec invoke backup.cron "$@"; fi
