#!/bin/sh
# Dumps, restores and counts a Redis or Valkey server in its container: sh -c "$(cat redis.sh)" redis VERB DATABASE USER
#
# A dump is the snapshot that a server sends to a replica, an RDB file. A restore begins a second server on that file
# and makes the one in service its replica for a moment: that takes over the data as a whole, writes them down as its
# configuration says (`appendonly` too), and is a master again. So it keeps running, and what came later is gone.
#
# Sources: redis-cli, REPLICAOF, INFO and CONFIG in https://redis.io/docs/latest; https://hub.docker.com/_/redis
set -eu
verb=$1 user=$3

client=$(command -v redis-cli || command -v valkey-cli)
server=$(command -v redis-server || command -v valkey-server)

# The images have no variable for a password; these are what redis-cli and other images call it.
password() {
  for name in REDISCLI_AUTH REDIS_PASSWORD VALKEY_PASSWORD; do
    eval "plain=\${$name-} file=\${${name}_FILE-}"
    # shellcheck disable=SC2154
    if [ -n "$plain" ]; then printf %s "$plain"; return; elif [ -n "$file" ]; then cat "$file"; return; fi
  done
}

REDISCLI_AUTH=$(password)
if [ -n "$REDISCLI_AUTH" ]; then export REDISCLI_AUTH; else unset REDISCLI_AUTH; fi

# Answers a command, which may be secret, from stdin. redis-cli ends with 0 when the server refuses one.
ask() {
  answer=$("$client" ${user:+--user "$user"})
  case $answer in
  NOAUTH*) echo "the server asks for a password: give its service REDISCLI_AUTH, or REDIS_PASSWORD_FILE" >&2; return 1 ;;
  ERR* | WRONGPASS* | NOPERM* | DENIED* | LOADING* | MISCONF* | BUSY* | READONLY*) printf '%s\n' "$answer" >&2; return 1 ;;
  esac
  printf '%s\n' "$answer" | tr -d '\r'
}

told() {
  every=$(echo "INFO $1" | ask) || return
  printf '%s\n' "$every" | sed -n "s/^$2://p"
}

configured() {
  every=$(echo "CONFIG GET $1" | ask) || return
  printf '%s\n' "$every" | sed -n 2p
}

scratch() {
  place=$(mktemp -d "${TMPDIR:-/tmp}/conche-backup-XXXXXXXX")
  trap left EXIT
  trap 'exit 143' HUP INT TERM
}

second="" before=""
left() {
  if [ -n "$before" ]; then
    printf 'REPLICAOF NO ONE\nCONFIG SET masterauth "%s"\n' "${before#was:}" | "$client" ${user:+--user "$user"} >/dev/null || :
  fi
  [ -z "$second" ] || kill "$second" 2>/dev/null || :
  rm -rf "$place"
}

dumped() {
  [ "$(told cluster cluster_enabled)" != 1 ] || { echo "it is one node of a cluster, and has a part of the data" >&2; return 1; }
  scratch
  if ! "$client" ${user:+--user "$user"} --rdb "$place/dump.rdb" >"$place/said" 2>&1; then
    tail -n 3 "$place/said" >&2
    return 1
  fi
  cat "$place/dump.rdb"
}

# Begins a server on the file, for nobody but the one in service.
begun() {
  secret=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
  # A port that somebody else has ends the server at once, and another is tried.
  for _ in 1 2 3 4 5 6 7 8; do
    port=$((20000 + $(head -c 2 /dev/urandom | od -An -tu2 | tr -d ' ') % 12000))
    printf '%s\n' "port $port" "bind 127.0.0.1" "requirepass $secret" "dir $place" "dbfilename dump.rdb" "save \"\"" \
      "appendonly no" "daemonize no" "databases $(configured databases)" "repl-diskless-sync yes" \
      "repl-diskless-sync-delay 0" >"$place/configuration"
    "$server" - <"$place/configuration" >"$place/said" 2>&1 &
    second=$!
    while kill -0 "$second" 2>/dev/null; do
      case $(REDISCLI_AUTH=$secret "$client" -p "$port" ping 2>/dev/null) in PONG) return ;; esac
      sleep 0.2 2>/dev/null || sleep 1
    done
    grep -q "Address already in use" "$place/said" || break
  done
  second=""
  echo "a server does not begin with this dump:" >&2
  tail -n 3 "$place/said" >&2
  return 1
}

loaded() {
  scratch
  cat >"$place/dump.rdb"
  case $(head -c 5 "$place/dump.rdb" | tr -d '\0') in REDIS) ;; *) echo "this is no RDB file" >&2; return 1 ;; esac
  # A restore that was killed may have left it so.
  case $(told replication master_host) in
  "" | 127.0.0.1) ;;
  *) echo "it is a replica: restore its master" >&2; return 1 ;;
  esac
  begun
  before=was:$(configured masterauth)
  echo "CONFIG SET masterauth $secret" | ask >/dev/null
  echo "REPLICAOF 127.0.0.1 $port" | ask >/dev/null
  until [ "$(told replication master_link_status)" = up ] && [ "$(told replication master_sync_in_progress)" = 0 ]; do
    kill -0 "$second" 2>/dev/null || { echo "the second server has ended" >&2; return 1; }
    sleep 0.2 2>/dev/null || sleep 1
  done
  echo "REPLICAOF NO ONE" | ask >/dev/null
  printf 'CONFIG SET masterauth "%s"\n' "${before#was:}" | ask >/dev/null
  before=""
  written
}

# Waits until it is on the disk, if this server writes anything there.
written() {
  if [ "$(configured appendonly)" = yes ]; then
    while [ "$(told persistence aof_rewrite_in_progress)" = 1 ] || [ "$(told persistence aof_rewrite_scheduled)" = 1 ]; do
      sleep 0.2 2>/dev/null || sleep 1
    done
    [ "$(told persistence aof_last_bgrewrite_status)" = ok ] || { echo "the append-only file was not rewritten" >&2; return 1; }
  fi
  if [ -n "$(configured save)" ]; then
    while [ "$(told persistence rdb_bgsave_in_progress)" = 1 ]; do sleep 0.2 2>/dev/null || sleep 1; done
    echo SAVE | ask >/dev/null
  fi
}

case $verb in
version)
  number=$(told server redis_version)
  echo "Redis $number"
  ;;
ready) [ "$("$client" ${user:+--user "$user"} ping 2>/dev/null)" = PONG ] ;;
dump | save) dumped ;;
restore) loaded ;;
# Only keys that do not expire: of the others some are gone by the time of a restore.
check)
  every=$(echo "INFO keyspace" | ask)
  printf '%s\n' "$every" | sed -n 's/^\(db[0-9]*\):keys=\([0-9]*\),expires=\([0-9]*\).*/\1 \2 \3/p' |
    while read -r name keys expiring; do echo "$name $((keys - expiring))"; done
  ;;
*) exit 2 ;;
esac
