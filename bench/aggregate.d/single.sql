\set user random(1, 100000)
\set product random(0, 19)
INSERT INTO @ VALUES (:user, :product, now(), 9.99);
