-- Lock the tasks of a chunk, in one order, and say how each stands. fenced: its lane accepts nothing
-- of the holder under whom it was claimed any more. left_ub, of a subtask: what is left of the budget of
-- its parent's attempt.
SELECT CAST(t.id AS text) AS id, t.attempt, t.state,
       t.state = 'INIT' AND t.wait = 'attempt' AS in_flight,
       t.fence < l.floor AS fenced,
       CAST(t.parent AS text) AS parent, t.parent_attempt,
       CASE WHEN t.parent IS NOT NULL THEN t.budget_ub - (
           SELECT CAST(coalesce(sum(r.cost_ub), 0) AS bigint)
           FROM task s JOIN task_result r ON r.task = s.id
           WHERE s.parent = t.parent AND s.parent_attempt = t.parent_attempt) END AS left_ub
FROM task t JOIN lane l ON l.id = t.lane
WHERE t.id = ANY(CAST(%(ids)s AS uuid[])) ORDER BY t.id FOR UPDATE OF t
