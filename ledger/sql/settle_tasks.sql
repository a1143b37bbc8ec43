-- Lock the tasks of a chunk, in one order, and say how each stands.
SELECT CAST(t.id AS text) AS id, t.attempt, t.state,
       t.state = 'INIT' AND t.wait = 'attempt' AS in_flight
FROM task t WHERE t.id = ANY(CAST(%(ids)s AS uuid[])) ORDER BY t.id FOR UPDATE
