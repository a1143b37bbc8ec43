INSERT INTO pool_snapshot (agent, state, at)
SELECT key, value, %(now)s
FROM jsonb_each(CAST(%(states)s AS jsonb))
ON CONFLICT (agent) DO UPDATE SET state = excluded.state, at = excluded.at
