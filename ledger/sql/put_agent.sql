INSERT INTO agent (id, spec) VALUES (%(id)s, CAST(%(spec)s AS jsonb))
ON CONFLICT (id) DO UPDATE SET spec = excluded.spec WHERE agent.spec <> excluded.spec
RETURNING id, (xmax = 0) AS created
