INSERT INTO agent (id, spec) VALUES (:id, CAST(:spec AS jsonb))
ON CONFLICT (id) DO UPDATE SET spec = excluded.spec WHERE agent.spec <> excluded.spec
RETURNING id, (xmax = 0) AS created
