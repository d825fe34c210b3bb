#!/bin/sh
# Dumps, restores and counts a MariaDB or MySQL server in its container: sh -c "$(cat mariadb.sh)" mariadb VERB DATABASE USER
#
# Without DATABASE it is all of them but the server's own, so users and their privileges are not in a dump. A dump is a
# script for the client. A database is dropped before it is loaded, since a dump does not know what came later.
#
# Sources: https://hub.docker.com/_/mariadb, https://hub.docker.com/_/mysql; mariadb-dump of MariaDB 11, mysqldump of
# MySQL 8.4, and the tables of information_schema.
set -eu
verb=$1 database=$2 user=$3

# Prints a variable of the official images, or what is in the file that its twin names.
setting() {
  for name in "MARIADB_$1" "MYSQL_$1"; do
    eval "plain=\${$name-} file=\${${name}_FILE-}"
    # shellcheck disable=SC2154
    if [ -n "$plain" ]; then printf %s "$plain"; return; elif [ -n "$file" ]; then cat "$file"; return; fi
  done
}

# A root whose password nobody knows cannot dump anything.
root=$(setting ROOT_PASSWORD)
own=$(setting USER)
if [ -z "$user" ] && [ -n "$(setting RANDOM_ROOT_PASSWORD)" ] && [ -n "$own" ]; then
  user=$own
fi
user=${user:-root}
if [ "$user" = root ]; then MYSQL_PWD=$root; else MYSQL_PWD=$(setting PASSWORD); fi
export MYSQL_PWD

client=$(command -v mariadb || command -v mysql)
dumper=$(command -v mariadb-dump || command -v mysqldump)

ask() {
  "$client" --user="$user" --default-character-set=utf8mb4 --batch --skip-column-names --raw
}

# A single quote, and a backslash, in a string of SQL.
quoted() {
  printf %s "$1" | sed "s/[\\\\']/\\\\&/g"
}

databases() {
  ask <<SQL
SELECT schema_name FROM information_schema.schemata
WHERE schema_name NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys') AND schema_name NOT LIKE '#mysql50#%'
  AND '$(quoted "$database")' IN ('', schema_name) ORDER BY BINARY schema_name
SQL
}

# The statements that drop a database, by its name.
drop() {
  # shellcheck disable=SC2016
  printf 'DROP DATABASE IF EXISTS `%s`;\n' "$(printf %s "$1" | sed 's/`/``/g')"
}

whole() {
  names=$(databases)
  echo "-- Conche: $(version)"
  if [ -n "$names" ]; then
    set --
    while IFS= read -r name; do
      set -- "$@" "$name"
    done <<NAMES
$names
NAMES
    # shellcheck disable=SC2046
    "$dumper" --user="$user" --default-character-set=utf8mb4 --single-transaction --quick --routines --triggers --events \
      --hex-blob --skip-dump-date --add-drop-database $(only_here) --databases "$@"
  elif [ "$verb" = save ]; then
    :
  else
    echo "there is no database $database" >&2
    return 1
  fi
  echo "-- Conche: complete"
}

# MySQL's would dump tablespaces, for which an ordinary user has no right, and what only a replica of it needs.
only_here() {
  "$dumper" --help | sed -n 's/^  *\(-y, \)*--no-tablespaces.*/--no-tablespaces/p' | head -n 1
  "$dumper" --help | sed -n 's/^  *--set-gtid-purged.*/--set-gtid-purged=OFF/p' | head -n 1
}

# What is there and is meant goes first, whether or not the dump has it.
loaded() {
  names=$(databases)
  {
    echo 'SET FOREIGN_KEY_CHECKS = 0;'
    [ -z "$names" ] || printf '%s\n' "$names" | while IFS= read -r name; do drop "$name"; done
    cat
  } | ask >/dev/null
}

version() {
  ask <<'SQL'
SELECT CONCAT(IF(VERSION() LIKE '%MariaDB%', 'MariaDB ', 'MySQL '), SUBSTRING_INDEX(VERSION(), '-', 1))
SQL
}

rows() {
  statements=$(ask <<SQL
SELECT CONCAT('SELECT CONCAT(', QUOTE(CONCAT(table_schema, '.', table_name, ' ')), ', COUNT(*)) FROM \`',
  REPLACE(table_schema, '\`', '\`\`'), '\`.\`', REPLACE(table_name, '\`', '\`\`'), '\`;')
FROM information_schema.tables WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
  AND table_schema NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys') AND table_schema NOT LIKE '#mysql50#%'
  AND '$(quoted "$database")' IN ('', table_schema) ORDER BY BINARY table_schema, BINARY table_name
SQL
  )
  printf 'SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION READ ONLY;\n%s\n' "$statements" | ask
}

case $verb in
version) version ;;
ready) "$(command -v mariadb-admin || command -v mysqladmin)" --host=127.0.0.1 --protocol=tcp --silent ping ;;
dump | save) whole ;;
restore) loaded ;;
check)
  found=$(rows)
  # An answer that is too long to be kept is summed up.
  if [ ${#found} -lt 60000 ]; then
    printf '%s\n' "$found"
  else
    printf '%s\n' "$found" | awk '{ rows += $NF } END { printf "%d tables, %.0f rows\n", NR, rows }'
  fi
  ;;
*) exit 2 ;;
esac
