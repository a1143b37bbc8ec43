-- An attempt in flight, for whoever adds a subtask to it: the task is locked, so that they are counted
-- one after the other. chain: the agents that wait for the task itself.
SELECT p.submitted_at, coalesce(p.chain, '{}') AS chain,
       (SELECT count(*) FROM task s
        WHERE s.parent = p.id AND s.parent_attempt = p.attempt) AS subtasks
FROM task p
WHERE p.id = CAST(%(id)s AS uuid) AND p.attempt = %(attempt)s
  AND p.state = 'INIT' AND p.wait = 'attempt' AND p.ready_at > %(now)s
FOR NO KEY UPDATE
