-- Lanes that do not exist yet, held by cron. Returns those.
INSERT INTO lane (id) SELECT unnest(CAST(%(names)s AS text[])) ON CONFLICT (id) DO NOTHING
RETURNING id
