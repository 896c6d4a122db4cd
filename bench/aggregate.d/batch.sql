INSERT INTO @ SELECT (random() * 100000)::bigint, g % 20, now(), 9.99 FROM generate_series(1, 100) g;
