# What readers pay; sourced by bench/aggregate.

# 100 products in 1,000 hours: 100,000 rows of the view, in a plain table too.
part_reads() {
  local round all='count(*), sum(n), sum(total)' day="product_id = 42 AND window_start >= '2026-01-10' AND window_start < '2026-01-11'" what
  new_table read_base
  sql -c "INSERT INTO read_base SELECT g % 1000, g % 100, timestamptz '2026-01-01' + g * (interval '1000 hours' / $base_rows), 9.99
      FROM generate_series(0, $base_rows - 1) g" -c "CREATE INDEX ON read_base (at)" -c "VACUUM ANALYZE read_base"
  live read_base read_view "SELECT $tumble FROM read_base, mill.tumble(at, '1 hour') $group"
  same read_view read_view_plain
  sql -c "CREATE TABLE read_table AS TABLE read_view" -c "CREATE UNIQUE INDEX ON read_table (window_start, product_id)" \
    -c "VACUUM ANALYZE" -c "CHECKPOINT"
  echo "rows of the view: $(value "SELECT count(*) FROM read_view")"
  for round in $(seq "$rounds"); do
    for what in table view; do
      read_time "$round" reads "point, $what, ms" "SELECT * FROM read_$what WHERE $day" 20
      read_time "$round" reads "whole, $what, ms" "SELECT $all FROM read_$what" 5
      read_time "$round" reads "all rows, $what, ms" "SELECT * FROM read_$what" 3
    done
  done
  # 100,000 deltas, each of another group, that no worker folds meanwhile
  sql -c "ALTER SYSTEM SET mill.workers_max = 0" -c "SELECT pg_reload_conf()" > /dev/null
  wait_until "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_mill worker')"
  sql -c "INSERT INTO read_base SELECT 1, g % 100, timestamptz '2026-01-01' + g / 100 * interval '1 hour', 9.99 FROM generate_series(0, 99999) g"
  for round in $(seq "$rounds"); do
    read_time "$round" reads "whole, view, 100,000 deltas, ms" "SELECT $all FROM read_view" 5
    note "$round" reads deltas "$(waiting read_base)"
  done
  value "SELECT mill.fold('read_view')" > /dev/null
  sql -c "ALTER SYSTEM RESET mill.workers_max" -c "SELECT pg_reload_conf()" > /dev/null
  same read_view read_view_plain
  compare reads "point, view, ms" "" "< 5"
  compare reads "whole, view, ms" "whole, table, ms" "< 1.5"
  compare reads "whole, view, 100,000 deltas, ms" "whole, table, ms" "< 3"
  compare reads "all rows, view, ms" "all rows, table, ms" "< 1.5"
}

part_windows() {
  local round
  new_table million
  sql -c "INSERT INTO million SELECT g % 1000, g % 20, timestamptz '2026-01-01' + g * interval '1 second', 9.99 FROM generate_series(1, 1000000) g" \
    -c "VACUUM ANALYZE million"
  for round in $(seq "$rounds"); do
    read_time "$round" windows "date_bin, ms" "SELECT date_bin('5 minutes', at, '2000-01-01') AS w, count(*) FROM million GROUP BY w" 3
    read_time "$round" windows "mill.tumble, ms" "SELECT window_start, window_end, count(*) FROM million, mill.tumble(at, '5 minutes') GROUP BY window_start, window_end" 3
    read_time "$round" windows "mill.tumble, start alone, ms" "SELECT window_start, count(*) FROM million, mill.tumble(at, '5 minutes') GROUP BY window_start" 3
  done
  compare windows "mill.tumble, ms" "date_bin, ms" "< 1.2"
  compare windows "mill.tumble, start alone, ms" "date_bin, ms" "< 1.2"
}
