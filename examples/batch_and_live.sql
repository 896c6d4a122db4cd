-- Batch and speed in one: history and live events in one aggregate.
\set ON_ERROR_STOP on
CREATE EXTENSION IF NOT EXISTS pg_mill;

CREATE TABLE events (kind text, amount integer, at timestamptz);
CREATE VIEW events_1h AS
SELECT window_start, window_end, kind, count(*) AS events, sum(amount) AS amount
FROM events, mill.tumble(at, '1 hour')
GROUP BY window_start, window_end, kind;
SELECT mill.materialize('events_1h');

-- speed: events as they come, here by INSERT, as well by a pipeline
INSERT INTO events VALUES ('buy', 3, '2026-01-02 12:00+00'), ('view', 1, '2026-01-02 12:01+00');

-- batch: history
COPY events FROM stdin;
buy	5	2026-01-01 12:00:00+00
view	1	2026-01-01 12:30:00+00
\.

-- a recomputation of the first day; live rows may arrive meanwhile
SELECT mill.refresh('events_1h', '2026-01-01 00:00+00'::timestamptz, '2026-01-02 00:00+00'::timestamptz);

SELECT * FROM events_1h ORDER BY window_start, kind;
SELECT * FROM mill.verify('events_1h');     -- none
