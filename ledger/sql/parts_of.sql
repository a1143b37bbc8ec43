-- The subtasks of a task, in the order in which its attempts asked for them.
SELECT t.id AS task, t.parent_attempt AS attempt, t.state, t.family, t.size, t.budget_ub,
       r.agent, r.cost_ub
FROM task t LEFT JOIN task_result r ON r.task = t.id
WHERE t.parent = CAST(%(id)s AS uuid)
ORDER BY t.parent_attempt, t.id
