-- Lock the tasks of a chunk, in one order, and say how each stands.
SELECT id, attempt, state, state = 'INIT' AND wait = 'attempt' AS in_flight FROM task WHERE id = ANY(CAST(%(ids)s AS uuid[])) ORDER BY id FOR UPDATE
