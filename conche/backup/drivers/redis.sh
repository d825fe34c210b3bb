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
most=300 # looks, a fifth of a second apart or more, at a server that does not do what it was asked for

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

# The next command of Conche removes what is named by its number, should this be killed.
scratch() {
  place=${TMPDIR:-/tmp}/conche-backup-$CONCHE_PROGRAM
  mkdir -m 700 "$place"
  trap left EXIT
  trap 'exit 143' HUP INT TERM
}

# How a replica reaches its master: for a moment, as the second server takes it.
reaching="masteruser masterauth tls-replication"

second="" changed=""
left() {
  if [ -n "$changed" ]; then
    {
      echo "REPLICAOF NO ONE"
      back
    } | "$client" ${user:+--user "$user"} >/dev/null || :
  fi
  [ -z "$second" ] || kill "$second" 2>/dev/null || :
  rm -rf "$place"
}

# Keeps what is configured, for `back`; a server without TLS, or an older one, does not know all of it.
keep() {
  for name in $reaching; do
    answer=$(echo "CONFIG GET $name" | ask) || return
    case $answer in "$name"*) printf '%s\n' "$answer" | sed -n 2p >"$place/$name" ;; esac
  done
}

set_to() { [ ! -e "$place/$1" ] || printf 'CONFIG SET %s "%s"\n' "$1" "$(printf %s "$2" | sed 's/[\\"]/\\&/g')"; }

back() { for name in $reaching; do set_to "$name" "$(cat "$place/$name" 2>/dev/null)"; done; }

# Ends with an error instead of waiting for a server that does not answer redis-cli as it is called here.
reached() {
  answer=$("$client" ${user:+--user "$user"} ping 2>&1) || :
  case $answer in
  PONG | NOPERM*) ;;
  AUTH* | WRONGPASS* | LOADING* | ERR*) printf '%s\n' "$answer" >&2; return 1 ;;
  NOAUTH*) echo "the server asks for a password: give its service REDISCLI_AUTH, or REDIS_PASSWORD_FILE" >&2; return 1 ;;
  *) printf 'redis-cli in the container does not reach the server on port 6379 without TLS: %s\n' "$answer" >&2; return 1 ;;
  esac
}

pause() { sleep 0.2 2>/dev/null || sleep 1; }

dumped() {
  reached
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
    silent=0
    while kill -0 "$second" 2>/dev/null && [ "$silent" -lt "$most" ]; do
      case $(REDISCLI_AUTH=$secret "$client" -p "$port" ping 2>/dev/null) in
      PONG) return ;;
      LOADING*) ;;
      *) silent=$((silent + 1)) ;;
      esac
      pause
    done
    kill "$second" 2>/dev/null || :
    grep -q "Address already in use" "$place/said" || break
  done
  second=""
  echo "a server does not begin with this dump:" >&2
  tail -n 3 "$place/said" >&2
  return 1
}

loaded() {
  reached
  scratch
  cat >"$place/dump.rdb"
  case $(head -c 5 "$place/dump.rdb" | tr -d '\0') in REDIS) ;; *) echo "this is no RDB file" >&2; return 1 ;; esac
  # A restore that was killed may have left it so.
  case $(told replication master_host) in
  "" | 127.0.0.1) ;;
  *) echo "it is a replica: restore its master" >&2; return 1 ;;
  esac
  begun
  keep
  changed=yes
  for one in "masteruser " "masterauth $secret" "tls-replication no"; do
    set_to "${one%% *}" "${one#* }" | tell
  done
  echo "REPLICAOF 127.0.0.1 $port" | tell
  followed
  echo "REPLICAOF NO ONE" | tell
  back | tell
  changed=""
  written
}

# Has the server do what each line says.
tell() {
  while IFS= read -r line; do printf '%s\n' "$line" | ask >/dev/null || return; done
}

# Waits until the server has taken over everything, but not for one that does not begin with it, or fails again and again.
followed() {
  idle=0 tries=0 syncing=0
  until [ "$(told replication master_link_status)" = up ] && [ "$(told replication master_sync_in_progress)" = 0 ]; do
    kill -0 "$second" 2>/dev/null || { echo "the second server has ended" >&2; return 1; }
    if [ "$(told replication master_sync_in_progress)" = 1 ]; then
      syncing=1
    else
      idle=$((idle + 1)) tries=$((tries + syncing)) syncing=0
    fi
    if [ "$idle" -ge "$most" ] || [ "$tries" -ge 5 ]; then
      echo "the server does not take over the dump from a second one: see its log for why; is its disk or memory full?" >&2
      return 1
    fi
    pause
  done
}

# Waits until it is on the disk, if this server writes anything there.
written() {
  if [ "$(configured appendonly)" = yes ]; then
    while [ "$(told persistence aof_rewrite_in_progress)" = 1 ] || [ "$(told persistence aof_rewrite_scheduled)" = 1 ]; do
      pause
    done
    [ "$(told persistence aof_last_bgrewrite_status)" = ok ] || { echo "the append-only file was not rewritten" >&2; return 1; }
  fi
  if [ -n "$(configured save)" ]; then
    while [ "$(told persistence rdb_bgsave_in_progress)" = 1 ]; do pause; done
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
