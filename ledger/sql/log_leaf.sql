-- Where in the log a task's settlement stands, or why nowhere: `state` is NULL for an unknown task.
SELECT (SELECT t.state FROM task t WHERE t.id = w.id) AS state, x.id IS NOT NULL AS settled, x.leaf
FROM (SELECT CAST(%(task)s AS uuid) AS id) w LEFT JOIN ledger_transaction x ON x.task = w.id
