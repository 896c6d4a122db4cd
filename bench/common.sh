# What the measurements share; sourced by each of them.
#
# Everything happens in one directory below /tmp, as in test/run: a copy of the
# tree, a private copy of the installed PostgreSQL with the extension in it, a
# server without TCP port, a real Kafka. Called by root, it drops to the user who
# called sudo, or to "mill_test". At the end, also when interrupted, all of it is
# ended and removed; the result stays in build/bench as JSON.
#
# A measurement defines run(), which says what it has found by report_json,
# and SETTINGS, lines for postgresql.conf; then it calls main with its arguments.
# KAFKA=no, set before: no broker is started.
set -euo pipefail

bench=$(basename "$0")
top=$(cd "$(dirname "$0")/.." && pwd)
# how long the producer may wait for company; the library's default is 5
linger=(-X linger.ms=1)
KAFKA=${KAFKA:-yes}

sql() { psql -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { sql -At -c "$1"; }

# ---------------------------------------------------------------- outside

outside() {
  local as=() user status=0 commit
  bash "$top/test/deps"
  cache=${MILL_CACHE:-$top/build/kafka}
  [ "$KAFKA" = no ] || MILL_CACHE=$cache bash "$top/test/kafka/kafka" fetch
  commit=$(git -c safe.directory="$top" -C "$top" describe --always --dirty 2> /dev/null || echo unknown)
  dir=$(mktemp -d /tmp/mill-bench.XXXXXX)
  trap 'rm -rf "$dir"' EXIT
  chmod 755 "$dir"
  mkdir "$dir/src" "$dir/kafka"
  tar -C "$top" --exclude=./build --exclude=./.git --exclude='*.o' --exclude='*.bc' --exclude='*.so' \
    --exclude=./mill_gateway -cf - . | tar -C "$dir/src" --no-same-owner -xf -
  [ "$KAFKA" = no ] || cp -rl "$cache"/[0-9]* "$dir/kafka" 2> /dev/null || cp -r "$cache"/[0-9]* "$dir/kafka"
  if [ "$(id -u)" = 0 ]; then
    user=${SUDO_USER:-mill_test}
    [ "$user" != root ] || user=mill_test
    id "$user" > /dev/null 2>&1 || useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
    chown -R "$user" "$dir"
    as=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups)
  fi
  # in the background: a signal reaches the trap at once
  "${as[@]}" env -C "$dir" -i PATH="$PATH" HOME="$dir" TMPDIR="$dir" LC_ALL=C.UTF-8 TERM=dumb TZ=UTC \
    MILL_BENCH_DIR="$dir" MILL_CACHE="$dir/kafka" MILL_KAFKA_HOME="$dir/broker" COMMIT="$commit" \
    PG_CONFIG="${PG_CONFIG:-pg_config}" ${ROUNDS:+ROUNDS=$ROUNDS} ${EVENTS:+EVENTS=$EVENTS} ${SEED:+SEED=$SEED} \
    ${MILL_SECONDS:+MILL_SECONDS=$MILL_SECONDS} ${BASE_ROWS:+BASE_ROWS=$BASE_ROWS} \
    ${LIBRDKAFKA_PREFIX:+LIBRDKAFKA_PREFIX=$LIBRDKAFKA_PREFIX} bash "$dir/src/bench/$bench" "$@" < /dev/null &
  inner=$!
  trap 'kill -TERM $inner; wait $inner; exit 130' INT TERM HUP
  wait $inner || status=$?
  if [ -f "$dir/result.json" ]; then
    mkdir -p "$top/build/bench"
    cp "$dir/result.json" "$top/build/bench/$bench-$commit.json"
    echo "build/bench/$bench-$commit.json"
  fi
  return $status
}

# ---------------------------------------------------------------- inside

clean_up() {
  trap '' INT TERM HUP
  jobs -p | xargs -r kill 2> /dev/null || true
  [ ! -f "$dir/data/postmaster.pid" ] || pg_ctl -s -w -m immediate -D "$dir/data" stop || true
  bash test/kafka/kafka kill 1 2> /dev/null || true
}

start() {
  PG_CONFIG=$(bash test/lib/private-postgres "$dir/pg")
  export PG_CONFIG PATH
  make -s -j2 all test-programs > "$dir/build.log" 2>&1 && make -s install >> "$dir/build.log" 2>&1 ||
    { tail -30 "$dir/build.log" >&2; exit 1; }
  PATH=$("$PG_CONFIG" --bindir):$PATH
  export PGHOST=$dir PGUSER=bench PGDATABASE=bench
  initdb -D "$dir/data" -A trust -N -U bench > "$dir/initdb.log"
  cat >> "$dir/data/postgresql.conf" << CONF
shared_preload_libraries = 'pg_mill'
listen_addresses = ''
unix_socket_directories = '$dir'
unix_socket_permissions = 0700
shared_buffers = 1GB
max_wal_size = 4GB
wal_level = replica
fsync = on
autovacuum = on
timezone = 'UTC'
max_worker_processes = 24
mill.workers_max = 16
track_commit_timestamp = on     # the clock of what becomes visible when
$SETTINGS
CONF
  pg_ctl -s -w -D "$dir/data" -l "$dir/server.log" start
  createdb bench
  sql -c "CREATE EXTENSION pg_mill"
  [ "$KAFKA" = no ] || start_kafka
}

start_kafka() {
  bash test/kafka/kafka start
  MILL_BROKERS=$(bash test/kafka/kafka bootstrap)
  export MILL_BROKERS
  sql -v bootstrap="$MILL_BROKERS" << 'SQL'
CREATE SERVER kafka FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" :'bootstrap');
CREATE FOREIGN TABLE events (id bigint, user_id bigint, page text, at timestamptz OPTIONS (field 'timestamp'),
    amount numeric, produced timestamptz OPTIONS (metadata 'timestamp'))
    SERVER kafka OPTIONS (topic 'events', format 'json');
CREATE VIEW source AS SELECT id, user_id, page, at, amount FROM events;
SQL
  build/kafka_tool create-topic events 1
}

# wait_until SQL [SECONDS]: until it is true
wait_until() {
  local deadline=$((SECONDS + ${2:-300}))
  until [ "$(value "$1")" = t ]; do
    [ $SECONDS -lt $deadline ] || { echo "$bench: waited in vain for: $1" >&2; tail -20 "$dir/server.log" >&2; exit 1; }
    sleep 0.1
  done
}

# The pids of a pipeline's worker and of its gateway, the worker's child.
find_processes() {
  local deadline=$((SECONDS + 60))
  until worker=$(value "SELECT min(pid) FROM pg_stat_activity WHERE backend_type = 'pg_mill worker'") &&
    [ -n "$worker" ] && gateway=$(pgrep -P "$worker" mill_gateway); do
    [ $SECONDS -lt $deadline ] || { echo "$bench: no worker" >&2; tail -20 "$dir/server.log" >&2; exit 1; }
  done
}

# CPU seconds that processes have used so far.
cpu() {
  local pid sum=0 f
  for pid; do
    read -r -a f < <(sed 's/.*) //' "/proc/$pid/stat")
    sum=$((sum + f[11] + f[12]))
  done
  awk -v ticks=$sum -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", ticks / hz }'
}

# Resident kB of a process that are its own: without shared memory, which in a
# worker is the server's buffers, and without files (programs and libraries).
own_memory() { awk '/^RssAnon/ { print $2 }' "/proc/$1/status"; }

# all that is resident of a process at its highest
peak_memory() { awk '/^VmHWM/ { print $2 }' "/proc/$1/status"; }

show_settings() {
  echo "PostgreSQL $(value 'SHOW server_version'), $(nproc) cores, load before: $(cut -d' ' -f1 /proc/loadavg); commit $COMMIT"
  value "SELECT string_agg(name || '=' || current_setting(name), ' ' ORDER BY name) FROM pg_settings
    WHERE name IN ('shared_buffers', 'max_wal_size', 'wal_level', 'fsync', 'autovacuum', 'track_commit_timestamp')"
}

# report_json QUERY: its rows, with the circumstances, as the result
report_json() {
  value "SELECT jsonb_pretty(jsonb_build_object('bench', '$bench', 'commit', '$COMMIT', 'at', now(),
      'server', version(), 'cores', $(nproc), 'settings',
      (SELECT jsonb_object_agg(name, current_setting(name)) FROM pg_settings
       WHERE source = 'configuration file' AND name !~ 'director|^lc_'),
      'result', (SELECT jsonb_agg(r) FROM ($1) r)))" > "$dir/result.json"
}

main() {
  if [ -z "${MILL_BENCH_DIR:-}" ]; then
    outside "$@"
    return
  fi
  dir=$MILL_BENCH_DIR
  cd "$dir/src"
  trap clean_up EXIT
  trap 'exit 143' INT TERM HUP
  start
  run "$@"
}
