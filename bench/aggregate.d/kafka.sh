# An aggregate on a pipeline's target; sourced by bench/aggregate. A real Kafka, one partition, one worker.

page_view='window_start, window_end, page, count(*) AS n, sum(amount) AS total'
page_group='GROUP BY window_start, window_end, page'

# Rows a second from the first visible row to the last, by commit timestamps, without the first commit's rows.
pipeline_rate() {                       # pipeline_rate TABLE
  value "WITH c AS (SELECT pg_xact_commit_timestamp(xmin) AS at, count(*) AS n FROM $1 GROUP BY xmin),
    f AS (SELECT * FROM c ORDER BY at LIMIT 1)
    SELECT (SELECT sum(n) FROM c) - f.n, extract(epoch FROM (SELECT max(at) FROM c) - f.at) FROM f" |
    awk -F'|' '{ printf "%.1f", $1 / $2 }'
}

checksum() { value "SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM $1 t"; }

# pipeline_part PART STEP BAR: EVENTS events of 1,000 users, STEP milliseconds of event time apart, into a table
# without an aggregate and into one whose view counts and sums for each user and five minutes.
pipeline_part() {
  local part=$1 round what left expected rate
  new_topic "$part"
  build/kafka_tool produce -t "$part" -n "$events" -g events -s "${SEED:-1}" -u 1000 -i "$2" > "$dir/produce.log"
  # the rows that must come out, taken from the messages by other means than ours
  build/kafka_tool consume -t "$part" | perl -ne '
    /\{"id":(\d+),"user_id":(\d+),"page":"([^"]*)","timestamp":"([^"]*)","amount":([\d.]+)\}$/ or die $_;
    print "$1\t$2\t$3\t$4\t$5\n"' > "$dir/events.txt"
  sql -c "CREATE VIEW ${part}_source AS SELECT id, user_id, page, at, amount FROM $part"
  for what in expected none live; do
    sql -c "CREATE TABLE ${part}_$what (id bigint, user_id bigint, page text, at timestamptz, amount numeric)"
  done
  sql -c "COPY ${part}_expected FROM '$dir/events.txt'"
  expected=$(checksum "${part}_expected")
  [ "${expected%%|*}" = "$events" ] || { echo "$bench: the topic has ${expected%%|*} messages" >&2; exit 1; }
  live "${part}_live" "${part}_view" "SELECT window_start, window_end, user_id, count(*) AS n, sum(amount) AS total
    FROM ${part}_live, mill.tumble(at, '5 minutes') GROUP BY window_start, window_end, user_id"
  for round in $(seq "$rounds"); do
    for what in none live; do
      sql -c "TRUNCATE ${part}_$what" -c CHECKPOINT
      value "SELECT mill.create_pipeline('p', source => '${part}_source', target => '${part}_$what')" > /dev/null
      wait_until "SELECT rows_read >= $events FROM mill.pipelines"
      left=$(waiting "${part}_$what")
      rate=$(pipeline_rate "${part}_$what")
      note "$round" "$part" "$what, rows/s" "$rate" "$left"
      [ "$(checksum "${part}_$what")" = "$expected" ] || { echo "$bench: ${part}_$what has NOT the rows of the topic" >&2; exit 1; }
      check "${part}_$what"
      value "SELECT mill.drop_pipeline('p')" > /dev/null
    done
  done
  compare "$part" "live, rows/s" "none, rows/s" "$3"
}

# 500 events a second of event time: 150 for each group.
part_pipeline() { pipeline_part pipeline 2 0.85; }

# One event a second of event time: nearly every row is a group of its own.
part_scattered() { pipeline_part scattered 1000 0.5; }

# A topic of its own, as a foreign table and the source of a pipeline.
new_topic() {                           # new_topic NAME
  build/kafka_tool create-topic "$1" 1
  sql -c "CREATE FOREIGN TABLE $1 (id bigint, user_id bigint, page text, at timestamptz OPTIONS (field 'timestamp'),
    amount numeric, produced timestamptz OPTIONS (metadata 'timestamp')) SERVER kafka OPTIONS (topic '$1', format 'json')"
}

# Produced: the producer's timestamp, cut to a millisecond. Visible: a session reads the view's count over and
# over; message number i is visible at the end of the first read that counts more than i. So the time of that
# read is in it, and a figure may be a read's time and 1 ms too long.
part_latency() {
  local round rate=5000 warm=$((5000 * 2)) n poller
  n=$((warm + rate * 10))
  for round in $(seq "$rounds"); do
    new_topic "timed_$round"
    sql -c "CREATE TABLE latency_$round (id bigint, user_id bigint, page text, at timestamptz, amount numeric, produced timestamptz)" \
      -c "CREATE UNLOGGED TABLE seen_$round (at timestamptz, n bigint)"
    live "latency_$round" "latency_view_$round" "SELECT $page_view FROM latency_$round, mill.tumble(at, '5 minutes') $page_group"
    value "SELECT mill.create_pipeline('p', source => 'timed_$round', target => 'latency_$round')" > /dev/null
    wait_until "SELECT state = 'idle' FROM mill.pipelines"
    # gives up when nothing more has come for a minute
    PGOPTIONS="-c synchronous_commit=off" sql << SQL > "$dir/poller.log" 2>&1 &
DO \$\$
DECLARE
  now_seen bigint; before bigint := 0; changed timestamptz := clock_timestamp();
BEGIN
  WHILE before < $n LOOP
    SELECT coalesce(sum(v.n), 0) INTO now_seen FROM latency_view_$round v;
    IF now_seen > before THEN
      INSERT INTO seen_$round VALUES (clock_timestamp(), now_seen);
      before := now_seen;
      changed := clock_timestamp();
    ELSIF clock_timestamp() > changed + interval '1 minute' THEN
      RAISE 'only % of $n messages in the aggregate', before;
    END IF;
    COMMIT; -- a reader of one long transaction would keep all deltas that are folded meanwhile
    PERFORM pg_sleep(0.001);
  END LOOP;
END \$\$;
SQL
    poller=$!
    build/kafka_tool produce -t "timed_$round" -g events -r $rate -n $n "${linger[@]}" > "$dir/produce.log"
    wait $poller || { cat "$dir/poller.log" >&2; exit 1; }
    sql << SQL
INSERT INTO result (round, part, what, value)
  WITH visible AS (SELECT lag(n, 1, 0::bigint) OVER (ORDER BY n) AS first_id, n - 1 AS last_id, at FROM seen_$round),
  ms AS (SELECT extract(epoch FROM v.at - l.produced) * 1000 AS ms FROM visible v
         JOIN LATERAL (SELECT produced FROM latency_$round WHERE id BETWEEN greatest(v.first_id, $warm) AND v.last_id) l ON true)
  SELECT $round, 'latency', x.what, percentile_cont(x.p) WITHIN GROUP (ORDER BY ms)
  FROM ms, (VALUES (0.5, 'p50, ms'), (0.9, 'p90, ms'), (0.99, 'p99, ms'), (1, 'longest, ms')) x (p, what) GROUP BY x.what, x.p ORDER BY x.p;
INSERT INTO result (round, part, what, value)
  SELECT $round, 'latency', 'p99 until the commit, ms', percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM pg_xact_commit_timestamp(xmin) - produced) * 1000)
  FROM latency_$round WHERE id >= $warm;
INSERT INTO result (round, part, what, value)
  SELECT $round, 'latency', 'reads a second', count(*) / extract(epoch FROM max(at) - min(at)) FROM seen_$round;
SQL
    check "latency_$round"
    value "SELECT mill.drop_pipeline('p')" > /dev/null
    sql -c "SELECT mill.dematerialize('latency_view_$round')" > /dev/null
  done
  compare latency "p99, ms" "" "< 20"
}

# sample WHAT VALUE: during the sustained ingest
sample() { sql -c "INSERT INTO sample VALUES ('$1', $((SECONDS - began)), $2)"; }

# The pipeline reads a topic of 5 times EVENTS again and again: mill.seek sends it back well before its end. The
# view has history, 100,000 groups, so that reading it is not nothing. What a busy machine costs any reader
# is shown by a plain table with the view's rows.
part_backlog() {
  local n=$((events * 5)) what read rows began q_whole q_point
  new_topic flood
  build/kafka_tool produce -t flood -n $n -g events -s "${SEED:-1}" -u 1000000000 > "$dir/produce.log"
  sql -c "CREATE TABLE sample (what text, second int, value numeric)" \
    -c "CREATE VIEW flood_source AS SELECT page, at, amount FROM flood" \
    -c "CREATE TABLE flooded (page text, at timestamptz, amount numeric)" \
    -c "INSERT INTO flooded SELECT '/product/' || g % 500, timestamptz '2026-01-01' + g / 500 * interval '1 minute', 9.99 FROM generate_series(0, 499999) g" \
    -c "VACUUM ANALYZE flooded"
  live flooded flood_view "SELECT $page_view FROM flooded, mill.tumble(at, '5 minutes') $page_group"
  sql -c "CREATE TABLE flood_table AS TABLE flood_view" -c "CREATE UNIQUE INDEX ON flood_table (window_start, page)" -c "VACUUM ANALYZE" -c CHECKPOINT
  q_whole='SELECT count(*), sum(n), sum(total) FROM flood_'
  q_point="SELECT * FROM flood_@ WHERE page = '/product/42' AND window_start >= '2026-01-01 01:00' AND window_start < '2026-01-01 04:00'"
  for what in view table; do
    read_time 1 backlog "whole, $what, idle, ms" "$q_whole$what" 20
    read_time 1 backlog "point, $what, idle, ms" "${q_point/@/$what}" 100
  done
  value "SELECT mill.create_pipeline('p', source => 'flood_source', target => 'flooded')" > /dev/null
  wait_until "SELECT rows_read > 0 FROM mill.pipelines"
  began=$SECONDS rows=$(value "SELECT rows_read FROM mill.pipelines")
  while [ $((SECONDS - began)) -lt "$backlog_seconds" ]; do
    value "SELECT mill.seek('p', 'earliest') FROM mill.lag WHERE pipeline = 'p' AND lag < $n / 2 AND stored_offset > 0" > /dev/null
    sample deltas "$(waiting flooded)"
    sample "delta table, MB" "$(value "SELECT pg_relation_size(delta_table) / 1048576.0 FROM mill_catalog.aggregate WHERE view = 'flood_view'::regclass")"
    for what in view table; do
      sample "whole, $what, ms" "$(one_read "$q_whole$what" 1)"
      value "SELECT mill.seek('p', 'earliest') FROM mill.lag WHERE pipeline = 'p' AND lag < $n / 2 AND stored_offset > 0" > /dev/null
      sample "point, $what, ms" "$(one_read "${q_point/@/$what}" 5)"
    done
  done
  read=$(value "SELECT rows_read - $rows FROM mill.pipelines")
  note 1 backlog "ingest, rows/s" "$(awk -v n="$read" -v s=$((SECONDS - began)) 'BEGIN { printf "%.0f", n / s }')"
  value "SELECT mill.pause('p')" > /dev/null
  began=$SECONDS
  wait_until "SELECT NOT EXISTS (SELECT FROM mill_data.\"flood_view\$delta\")"
  note 1 backlog "until all is folded, s" $((SECONDS - began))
  # rows and counter commit together
  [ "$(value "SELECT (SELECT count(*) - 500000 FROM flooded) = rows_read FROM mill.pipelines")" = t ] || { echo "$bench: flooded has NOT the rows that were read" >&2; exit 1; }
  check flooded
  value "SELECT mill.drop_pipeline('p')" > /dev/null
  # the first tenth is the start
  sql << SQL
INSERT INTO result (round, part, what, value)
  SELECT 1, 'backlog', s.what || h.name, percentile_cont(0.5) WITHIN GROUP (ORDER BY value)
  FROM sample s, (VALUES (', first half', 0.1, 0.5), (', second half', 0.5, 2)) h (name, low, high)
  WHERE s.what ~ '^delta' AND s.second >= h.low * $backlog_seconds AND s.second < h.high * $backlog_seconds GROUP BY s.what, h.name ORDER BY 3;
INSERT INTO result (round, part, what, value)
  SELECT 1, 'backlog', what || ', most', max(value) FROM sample WHERE what ~ '^delta' GROUP BY what ORDER BY what;
INSERT INTO result (round, part, what, value)
  SELECT 1, 'backlog', replace(what, ', ms', ', ingest, ms'), percentile_cont(0.5) WITHIN GROUP (ORDER BY value)
  FROM sample WHERE what ~ 'ms$' GROUP BY what ORDER BY what DESC;
SQL
  compare backlog "deltas, second half" "deltas, first half" "< 1.2"
  compare backlog "delta table, MB, second half" "delta table, MB, first half" "< 1.2"
  for what in whole point; do
    compare backlog "$what, view, ingest, ms" "$what, view, idle, ms" "< 2"
    compare backlog "$what, table, ingest, ms" "$what, table, idle, ms" -
  done
}
