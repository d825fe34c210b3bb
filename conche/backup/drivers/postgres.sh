#!/bin/sh
# Dumps, restores and counts a PostgreSQL server in its container: sh -c "$(cat postgres.sh)" postgres VERB DATABASE USER
#
# Without DATABASE it is all of them. A dump is a script for psql that empties each database and fills it again in one
# transaction. Of the server itself it has what the databases need: roles, which are made where they are missing and
# otherwise left alone with their passwords, and each database's owner, settings and privileges.
#
# pg_dump's output goes through pg_restore: a plain one would commit before its large objects.
#
# Sources: https://hub.docker.com/_/postgres; pg_dump, pg_restore, psql, and the system catalogs of PostgreSQL 13 to 17.
set -eu
verb=$1 database=$2 user=$3

# Prints a variable of the official image, or what is in the file that its twin names.
setting() {
  eval "plain=\${$1-} file=\${$1_FILE-}"
  # shellcheck disable=SC2154
  if [ -n "$plain" ]; then printf %s "$plain"; elif [ -n "$file" ]; then cat "$file"; fi
}

PGUSER=${user:-$(setting POSTGRES_USER)}
PGUSER=${PGUSER:-postgres}
PGPASSWORD=$(setting POSTGRES_PASSWORD)
PGOPTIONS="-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c lock_timeout=60s"
PGDATABASE=postgres PGCLIENTENCODING=UTF8
[ -n "$PGPASSWORD" ] && export PGPASSWORD
export PGUSER PGOPTIONS PGDATABASE PGCLIENTENCODING

ask() {
  psql -X -q -A -t -F ' ' -v ON_ERROR_STOP=1 -v wanted="$database" "$@" -f -
}

databases() {
  ask <<'SQL'
SELECT datname FROM pg_catalog.pg_database
WHERE datallowconn AND NOT datistemplate AND :'wanted' IN ('', datname) ORDER BY datname COLLATE "C";
SQL
}

# Settings as they are stored, as a list where the variable is one: see GUC_LIST_QUOTE in PostgreSQL's guc_tables.c.
SETTINGS="
CREATE FUNCTION pg_temp.setting(one text) RETURNS text LANGUAGE sql AS \$\$
  SELECT format('SET %I TO %s', split_part(one, '=', 1),
    CASE WHEN split_part(one, '=', 1) IN ('local_preload_libraries', 'search_path', 'session_preload_libraries',
      'shared_preload_libraries', 'temp_tablespaces', 'unix_socket_directories')
      THEN substr(one, strpos(one, '=') + 1) ELSE quote_literal(substr(one, strpos(one, '=') + 1)) END)
\$\$;"

roles() {
  { echo "$SETTINGS"; cat <<'SQL'
SELECT CASE WHEN has_table_privilege('pg_catalog.pg_authid', 'SELECT') THEN 'pg_authid' ELSE 'pg_roles' END AS roles \gset
CREATE TEMP VIEW here AS SELECT * FROM pg_catalog.:"roles" WHERE rolname !~ '^pg_';
SELECT 'CREATE TEMP TABLE conche_known AS SELECT rolname FROM pg_catalog.pg_roles;';
CREATE FUNCTION pg_temp.if_new(role name, command text) RETURNS text LANGUAGE sql AS $$
  SELECT format('SELECT %L WHERE NOT EXISTS (SELECT FROM conche_known WHERE rolname = %L) \gexec', command, role)
$$;
SELECT pg_temp.if_new(rolname, format('CREATE ROLE %I WITH CONNECTION LIMIT %s %s', rolname, rolconnlimit, concat_ws(' ',
  CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN NOT rolinherit THEN 'NOINHERIT' END,
  CASE WHEN rolcreaterole THEN 'CREATEROLE' END, CASE WHEN rolcreatedb THEN 'CREATEDB' END,
  CASE WHEN rolcanlogin THEN 'LOGIN' END, CASE WHEN rolreplication THEN 'REPLICATION' END,
  CASE WHEN rolbypassrls THEN 'BYPASSRLS' END,
  CASE WHEN rolpassword !~ '^\*+$' THEN format('PASSWORD %L', rolpassword) END,
  CASE WHEN rolvaliduntil IS NOT NULL THEN format('VALID UNTIL %L', rolvaliduntil) END)))
FROM here ORDER BY rolname COLLATE "C";
SELECT pg_temp.if_new(member.rolname,
  format('GRANT %I TO %I%s', role.rolname, member.rolname, CASE WHEN admin_option THEN ' WITH ADMIN OPTION' END))
FROM pg_catalog.pg_auth_members JOIN pg_catalog.pg_roles AS role ON role.oid = roleid JOIN here AS member ON member.oid = member
ORDER BY role.rolname COLLATE "C", member.rolname COLLATE "C";
SELECT pg_temp.if_new(rolname, format('ALTER ROLE %I %s', rolname, pg_temp.setting(unnest(setconfig))))
FROM pg_catalog.pg_db_role_setting JOIN here ON oid = setrole WHERE setdatabase = 0;
SQL
  } | ask
}

# The database itself; at the end of it psql is connected to it.
outside() {
  { echo "$SETTINGS"; cat <<'SQL'
CREATE TEMP VIEW one AS SELECT *, to_jsonb(d) AS more FROM pg_catalog.pg_database AS d;
SELECT format('SELECT %L WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = %L) \gexec',
  format('CREATE DATABASE %I WITH TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L%s', datname,
    pg_encoding_to_char(encoding), datcollate, datctype, CASE more->>'datlocprovider'
      WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', coalesce(more->>'daticulocale', more->>'datlocale'))
      WHEN 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', more->>'datlocale') ELSE '' END), datname)
FROM one WHERE datname = :'name';
SELECT format('ALTER DATABASE %I OWNER TO %I;', datname, pg_get_userbyid(datdba)) FROM one WHERE datname = :'name';
SELECT format('ALTER DATABASE %I RESET ALL;', :'name');
SELECT format('ALTER %s %s;', CASE setrole WHEN 0 THEN format('DATABASE %I', datname)
  ELSE format('ROLE %I IN DATABASE %I', pg_get_userbyid(setrole), datname) END, pg_temp.setting(unnest(setconfig)))
FROM pg_catalog.pg_db_role_setting JOIN one ON oid = setdatabase WHERE datname = :'name';
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC;', datname) FROM one WHERE datname = :'name' AND datacl IS NOT NULL;
SELECT format('GRANT %s ON DATABASE %I TO %s%s;', privilege_type, datname,
  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
  CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
FROM one, aclexplode(datacl) WHERE datname = :'name';
SELECT E'\\connect -reuse-previous=on '
  || quote_ident(format('dbname=''%s''', replace(replace(:'name', E'\\', E'\\\\'), '''', E'\\''')));
SQL
  } | ask -v name="$1"
}

# Empties a database down to what a new one has, which is what pg_dump's output is made for.
EMPTY=$(cat <<'SQL'
SET client_min_messages = error;
BEGIN;
DO $conche$
DECLARE command text;
BEGIN
  PERFORM lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata;
  FOR command IN
    SELECT format('DROP EVENT TRIGGER IF EXISTS %I CASCADE', evtname) FROM pg_catalog.pg_event_trigger
      WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE objid = pg_event_trigger.oid AND deptype = 'e')
    UNION ALL SELECT format('DROP PUBLICATION IF EXISTS %I', pubname) FROM pg_catalog.pg_publication
    -- Its slot stays where it is: only without one can it be dropped in a transaction, and it is made again with it.
    UNION ALL SELECT format('ALTER SUBSCRIPTION %1$I DISABLE; ALTER SUBSCRIPTION %1$I SET (slot_name = NONE);'
      'DROP SUBSCRIPTION %1$I', subname)
      FROM pg_catalog.pg_subscription JOIN pg_catalog.pg_database AS d ON d.oid = subdbid WHERE datname = current_database()
    UNION ALL SELECT format('DROP EXTENSION IF EXISTS %I CASCADE', extname)
      FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'
    UNION ALL SELECT format('DROP SCHEMA IF EXISTS %I CASCADE', nspname)
      FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    UNION ALL SELECT format('DROP FOREIGN DATA WRAPPER IF EXISTS %I CASCADE', fdwname)
      FROM pg_catalog.pg_foreign_data_wrapper
    UNION ALL SELECT format('DROP CAST IF EXISTS (%s AS %s) CASCADE', castsource::regtype, casttarget::regtype)
      FROM pg_catalog.pg_cast WHERE oid >= 16384
    UNION ALL SELECT format('DROP LANGUAGE IF EXISTS %I CASCADE', lanname)
      FROM pg_catalog.pg_language WHERE lanispl AND lanname <> 'plpgsql'
  LOOP
    EXECUTE command;
  END LOOP;
  CREATE SCHEMA public;
  COMMENT ON SCHEMA public IS 'standard public schema';
  IF current_setting('server_version_num')::int >= 150000 THEN
    ALTER SCHEMA public OWNER TO pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
  ELSE
    GRANT ALL ON SCHEMA public TO PUBLIC;
  END IF;
END
$conche$;
SQL
)

# The contents of a database, with a COMMIT at the end. A pipe has the exit code of its last program only.
inside() {
  {
    failed=$({
      { PGDATABASE=$1 pg_dump --format=custom --compress=0 4>&- || echo pg_dump >&3; } |
        { pg_restore --file=- --single-transaction >&4 || echo pg_restore >&3; }
    } 3>&1)
  } 4>&1
  [ -z "$failed" ] || { echo "$failed has failed for the database $1" >&2; return 1; }
}

# Drops the databases that are none of these, once nothing is connected to them.
only() {
  ask -v names="$1" <<'SQL'
SELECT format('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname <> ALL (%L::text[]);', names),
  format('SELECT format(''DROP DATABASE %%I'', datname) FROM pg_database'
    ' WHERE datallowconn AND NOT datistemplate AND datname <> ALL (%L::text[]) \gexec', names)
FROM (SELECT string_to_array(:'names', E'\n')) AS every(names);
SQL
}

whole() {
  names=$(databases)
  echo "-- Conche: PostgreSQL $(ask -c 'SHOW server_version' </dev/null)"
  if [ -n "$names" ]; then
    roles
    printf '%s\n' "$names" | while IFS= read -r name; do
      outside "$name" </dev/null
      echo "$EMPTY"
      inside "$name" </dev/null
    done
    [ -n "$database" ] || only "$names"
  elif [ "$verb" = save ]; then
    absent
  else
    echo "there is no database $database" >&2
    return 1
  fi
  echo "-- Conche: complete"
}

# There is nothing to go back to but that there is nothing.
absent() {
  ask <<'SQL'
SELECT format('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %L;', :'wanted'),
  format('DROP DATABASE IF EXISTS %I;', :'wanted');
SQL
}

rows() {
  names=$(databases)
  [ -n "$names" ] || return 0
  printf '%s\n' "$names" | while IFS= read -r name; do
    PGDATABASE=$name ask -v name="$name" <<'SQL'
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT format('SELECT %L, count(*) FROM ONLY %I.%I', format('%s %s.%s', :'name', nspname, relname), nspname, relname)
FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace AS schema ON schema.oid = relnamespace
WHERE relkind IN ('r', 'm') AND relispopulated AND nspname !~ '^pg_' AND nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
ORDER BY nspname COLLATE "C", relname COLLATE "C" \gexec
SQL
  done
}

case $verb in
version) ask <<'SQL'
SELECT 'PostgreSQL ' || split_part(current_setting('server_version'), ' ', 1);
SQL
  ;;
ready) pg_isready -q -h 127.0.0.1 ;;
dump | save) whole ;;
restore) psql -X -q -v ON_ERROR_STOP=1 -f - >/dev/null ;;
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
