-- How a batch's tasks stand, those in flight told apart from those that wait, and what was paid.
SELECT t.state, t.state = 'INIT' AND t.wait = 'attempt' AS in_flight, count(*) AS tasks,
       coalesce(sum(r.cost_ub), 0)::bigint AS spent_ub
FROM task t LEFT JOIN task_result r ON r.task = t.id
WHERE t.batch = %(id)s AND t.batch > 0
GROUP BY 1, 2
