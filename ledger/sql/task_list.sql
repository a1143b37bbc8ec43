-- The newest tasks, optionally of one client, payer or state, before a given one (for the next page).
SELECT t.id, t.client, t.payer, t.parent, t.family, t.type, t.size, t.state, t.wait, t.attempt, t.submitted_at,
       t.ended_at, t.reason
FROM task t
WHERE (CAST(%(client)s AS text) IS NULL OR t.client = %(client)s)
  AND (CAST(%(payer)s AS text) IS NULL OR t.payer = %(payer)s)
  AND (CAST(%(state)s AS text) IS NULL OR t.state = %(state)s)
  AND (CAST(%(before)s AS uuid) IS NULL OR (t.submitted_at, t.id) <
       (SELECT b.submitted_at, b.id FROM task b WHERE b.id = CAST(%(before)s AS uuid)))
ORDER BY t.submitted_at DESC, t.id DESC
LIMIT %(limit)s
