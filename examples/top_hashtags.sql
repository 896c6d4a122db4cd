-- Top 10 hashtags per 5 minutes, always up to date.
\set ON_ERROR_STOP on
CREATE EXTENSION IF NOT EXISTS pg_mill;

CREATE TABLE hashtags (tag text NOT NULL, posted_at timestamptz NOT NULL);

CREATE VIEW hashtags_5m AS
SELECT window_start, window_end, tag, count(*) AS posts
FROM hashtags, mill.tumble(posted_at, '5 minutes')
GROUP BY window_start, window_end, tag;
SELECT mill.materialize('hashtags_5m');

CREATE VIEW top_hashtags AS
SELECT window_start, place, tag, posts
FROM (SELECT h.*, row_number() OVER (PARTITION BY window_start ORDER BY posts DESC, tag) AS place
      FROM hashtags_5m h) ranked
WHERE place <= 10;

INSERT INTO hashtags
SELECT '#tag' || (i % 17) * (i % 3), timestamptz '2026-01-01 12:00+00' + i * interval '1 second'
FROM generate_series(1, 600) i;

SELECT * FROM top_hashtags ORDER BY window_start, place;
SELECT * FROM mill.verify('hashtags_5m');   -- none
