INSERT INTO pool_snapshot (agent, state, at)
SELECT agent, CAST(state AS jsonb), :now
FROM unnest(CAST(:agents AS text[]), CAST(:states AS text[])) AS s (agent, state)
ON CONFLICT (agent) DO UPDATE SET state = excluded.state, at = excluded.at
