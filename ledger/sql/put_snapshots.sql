INSERT INTO pool_snapshot (agent, state, at)
SELECT agent, CAST(state AS jsonb), %(now)s
FROM unnest(CAST(%(agents)s AS text[]), CAST(%(states)s AS text[])) AS s (agent, state)
ON CONFLICT (agent) DO UPDATE SET state = excluded.state, at = excluded.at
