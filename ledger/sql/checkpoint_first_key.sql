-- The log's first key, unless it has one.
INSERT INTO log_key (number, vkey, at) VALUES (1, %(vkey)s, %(now)s)
ON CONFLICT DO NOTHING
