#!/bin/sh
# Dumps, restores and counts a SQLite database in the container of its application: sh -c "$(cat sqlite.sh)" sqlite VERB FILE
#
# A dump is a copy of the database as of one moment, made through SQLite's backup interface, by python3 or sqlite3: the
# application may write meanwhile, whatever the journal's mode. A restore goes the same way back, in one transaction.
#
# Sources: https://www.sqlite.org/backup.html, https://www.sqlite.org/cli.html, sqlite3 of Python's library.
set -eu
verb=$1 database=$2
# What the way back of a restore may begin with, where SQLite has nothing to copy.
ABSENT="-- Conche: no database"
AS_IS="-- Conche: files as is"

PYTHON=$(cat <<'PY'
import sqlite3, sys
verb, name, copy = sys.argv[1:]
def opened(path):
    return sqlite3.connect(path, timeout=60, isolation_level=None)
# Without it, `backup` tries for ever to read what is locked for good.
def copied(status, *_):
    if status not in (0, 101):
        raise sqlite3.OperationalError("database is locked")
if verb == "out":
    opened(name).backup(opened(copy), progress=copied)
elif verb == "in":
    opened(copy).backup(opened(name), progress=copied)
elif verb == "version":
    print(sqlite3.sqlite_version)
else:
    [print(*row) for one in sys.stdin.read().split("\1") if one.strip() for row in opened(name).execute(one)]
PY
)

if command -v python3 >/dev/null && python3 -c 'import sqlite3' 2>/dev/null; then
  with() { python3 -I -c "$PYTHON" "$@"; }
elif command -v sqlite3 >/dev/null; then
  with() {
    case $1 in
    out) sqlite3 -bail -cmd '.timeout 60000' "$2" ".backup '$3'" ;;
    in) sqlite3 -bail -cmd '.timeout 60000' "$2" ".restore '$3'" ;;
    version) sqlite3 :memory: 'SELECT sqlite_version()' ;;
    *) tr '\001' ';' | sqlite3 -bail -cmd '.timeout 60000' "$2" ;;
    esac
  }
else
  echo "the container has neither python3 nor sqlite3; use a \`volume\` with \`consistency: stop\`" >&2
  exit 1
fi

# Rows of each table of a file; those of virtual tables are in tables of their own.
rows() {
  list=$(
    with query "$1" - <<'SQL'
SELECT 'SELECT ' || quote(name || ' ') || ' || count(*) FROM "' || replace(name, '"', '""') || '"' || char(1)
FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND sql NOT LIKE 'CREATE VIRTUAL%'
ORDER BY name
SQL
  )
  printf %s "$list" | with query "$1" -
}

whole() {
  damage=$(echo 'PRAGMA quick_check(3)' | with query "$1" -)
  [ "$damage" = ok ] || { printf 'the database is damaged: %s\n' "$damage" >&2; return 1; }
}

scratch() {
  copy=$(mktemp -d "${TMPDIR:-/tmp}/conche-backup-XXXXXXXX" 2>/dev/null || mktemp -d "${database%/*}/.restore-XXXXXXXX")
  trap 'rm -rf "$copy"' EXIT
  trap 'exit 143' HUP INT TERM
}

there() {
  [ -f "$database" ] || { echo "there is no file $database" >&2; return 1; }
}

taken() {
  cat >"$copy/database"
  kind=$(head -c 22 "$copy/database" | tr -d '\0')
  case $kind in
  "SQLite format 3"*) whole "$copy/database" ;;
  "$ABSENT" | "$AS_IS") ;;
  *) echo "this is no dump of a SQLite database" >&2; return 1 ;;
  esac
}

# A file that is no database any more can neither be read nor written through SQLite, unlike one that is only locked.
is_damaged() {
  why=$(echo 'PRAGMA schema_version' | with query "$database" - 2>&1) && return 1
  case $why in
  *"not a database"* | *malformed*) ;;
  *) printf '%s\n' "$why" >&2; exit 1 ;;
  esac
}

removed() {
  rm -f "$database" "$database-wal" "$database-shm" "$database-journal"
}

replaced() {
  cp "$copy/database" "$database.restored"
  chown "$(stat -c %u:%g "${database%/*}")" "$database.restored" 2>/dev/null || :
  removed
  mv "$database.restored" "$database"
}

loaded() {
  case $kind in
  "$ABSENT") removed ;;
  "$AS_IS")
    removed
    tail -c +24 "$copy/database" | tar -x -f - -C "${database%/*}"
    ;;
  *)
    if [ ! -s "$database" ]; then
      replaced
    elif is_damaged; then
      replaced
      echo "$database was no database any more: its file was exchanged" >&2
    else
      with in "$database" "$copy/database"
    fi
    ;;
  esac
}

# Nothing writes when this is asked for: the files of a database that is damaged can be taken as they are.
saved() {
  if [ ! -f "$database" ]; then
    echo "$ABSENT"
  elif [ -s "$database" ] && is_damaged; then
    echo "$AS_IS"
    cd "${database%/*}"
    set --
    for one in "$database" "$database-wal" "$database-journal"; do
      [ ! -f "$one" ] || set -- "$@" "./${one##*/}"
    done
    tar -c -f - "$@"
  else
    with out "$database" "$copy/database"
    cat "$copy/database"
  fi
}

case $database in
/*) ;;
*) echo "\`database\` is the absolute path of a file in the container" >&2; exit 1 ;;
esac
case $verb in
version) echo "SQLite $(with version - -)" ;;
dump) there; scratch; with out "$database" "$copy/database"; whole "$copy/database"; cat "$copy/database" ;;
save) scratch; saved ;;
restore) scratch; taken; loaded ;;
check) if [ -f "$database" ]; then rows "$database"; else echo "no database"; fi ;;
trial) scratch; taken; rows "$copy/database" ;;
*) exit 2 ;;
esac
