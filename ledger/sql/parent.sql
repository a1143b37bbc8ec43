-- An attempt in flight, for whoever adds subtasks to it: the task is locked, so that they are counted
-- one after the other, by a statement that comes later. chain: the agents that wait for the task itself.
SELECT p.submitted_at, coalesce(p.chain, '{}') AS chain
FROM task p
WHERE p.id = CAST(%(id)s AS uuid) AND p.attempt = %(attempt)s
  AND p.state = 'INIT' AND p.wait = 'attempt' AND p.ready_at > %(now)s
FOR NO KEY UPDATE
