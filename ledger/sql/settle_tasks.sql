-- Lock the tasks of a chunk, in one order, and say how each stands. fenced: its lane accepts nothing
-- of the holder under whom it was claimed any more.
SELECT CAST(t.id AS text) AS id, t.attempt, t.state,
       t.state = 'INIT' AND t.wait = 'attempt' AS in_flight,
       t.fence < l.floor AS fenced
FROM task t JOIN lane l ON l.id = t.lane
WHERE t.id = ANY(CAST(%(ids)s AS uuid[])) ORDER BY t.id FOR UPDATE OF t
