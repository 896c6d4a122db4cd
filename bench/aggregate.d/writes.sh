# What writers pay; sourced by bench/aggregate.

# What one would write without the extension: an upsert at the end of each statement.
upsert_trigger() {
  sql << 'SQL'
CREATE TABLE upsert_result (window_start timestamptz, window_end timestamptz, product_id int, n bigint, total numeric,
    PRIMARY KEY (window_start, product_id));
CREATE FUNCTION upsert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO upsert_result AS r
    SELECT w, w + interval '5 minutes', product_id, count(*), sum(amount)
    FROM (SELECT date_bin('5 minutes', at, '2000-01-01') AS w, product_id, amount FROM new_rows) x GROUP BY 1, 2, 3 ORDER BY 1, 3
    ON CONFLICT (window_start, product_id) DO UPDATE SET n = r.n + excluded.n, total = r.total + excluded.total;
  RETURN NULL;
END $$;
CREATE FUNCTION upsert_empty() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN TRUNCATE upsert_result; RETURN NULL; END';
CREATE TRIGGER upsert AFTER INSERT ON ins_upsert REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION upsert();
CREATE TRIGGER upsert_empty AFTER TRUNCATE ON ins_upsert FOR EACH STATEMENT EXECUTE FUNCTION upsert_empty();
SQL
  sql -c "CREATE VIEW ins_upsert_plain AS SELECT $tumble FROM ins_upsert, mill.tumble(at, '5 minutes') $group"
}

part_inserts() {
  local round work sync options what bar
  for what in none live upsert; do new_table ins_$what; done
  live ins_live ins_view "SELECT $tumble FROM ins_live, mill.tumble(at, '5 minutes') $group"
  upsert_trigger
  for round in $(seq "$rounds"); do
    for work in batch single; do
      for sync in "" ", async"; do
        options=${sync:+-c synchronous_commit=off}
        for what in none live upsert; do
          write "$round" inserts "$work, $what$sync" ins_$what $work "$options"
        done
        same upsert_result ins_upsert_plain
      done
    done
  done
  for sync in "" ", async"; do
    bar=0.75
    [ -z "$sync" ] || bar=0.65
    compare inserts "batch, live$sync" "batch, none$sync" $bar
    compare inserts "single, live$sync" "single, none$sync" $bar
    compare inserts "batch, live$sync" "batch, upsert$sync" 2
    compare inserts "single, live$sync" "single, upsert$sync" 1.3
  done
}

part_hop() {
  local round
  new_table hop_hop
  new_table hop_tumble
  live hop_hop hop_hop_view "SELECT $tumble FROM hop_hop, mill.hop(at, '1 minute', '60 minutes') $group"
  live hop_tumble hop_tumble_view "SELECT $tumble FROM hop_tumble, mill.tumble(at, '1 minute') $group"
  for round in $(seq "$rounds"); do
    write "$round" hop tumble hop_tumble batch
    write "$round" hop hop hop_hop batch
  done
  compare hop hop tumble 0.95
}

part_sessions() {
  local round
  new_table session_none
  new_table session_live
  live session_live session_view "SELECT user_id, session_start, mill.session_end(at, '30 minutes') AS session_end, count(*) AS n, sum(amount) AS total
    FROM (SELECT *, mill.session_start(at, '30 minutes') OVER (PARTITION BY user_id ORDER BY at) AS session_start FROM session_live) e
    GROUP BY user_id, session_start"
  for round in $(seq "$rounds"); do
    write "$round" sessions none session_none batch
    write "$round" sessions live session_live batch
  done
  compare sessions live none 0.5
}

part_several() {
  local round n i
  for n in 0 1 3; do
    new_table several_$n
    for ((i = 1; i <= n; i++)); do
      live several_$n several_${n}_$i "SELECT $tumble FROM several_$n, mill.tumble(at, '$i minutes') $group"
    done
  done
  for round in $(seq "$rounds"); do
    for n in 0 1 3; do write "$round" several $n several_$n batch; done
  done
  compare several 1 0 -
  compare several 3 1 0.6
}
