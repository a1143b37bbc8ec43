INSERT INTO family (id, size, deadline_s, max_attempts, spec)
VALUES (%(id)s, %(size)s, %(deadline_s)s, %(max_attempts)s, CAST(%(spec)s AS jsonb))
ON CONFLICT (id) DO UPDATE
SET size = excluded.size, deadline_s = excluded.deadline_s,
    max_attempts = excluded.max_attempts, spec = excluded.spec
WHERE (family.size, family.deadline_s, family.max_attempts, family.spec)
   <> (excluded.size, excluded.deadline_s, excluded.max_attempts, excluded.spec)
RETURNING id, (xmax = 0) AS created
