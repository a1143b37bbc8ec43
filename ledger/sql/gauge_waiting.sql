-- Tasks that have not ended, by reason, and since when the first of each waits. Reads the tasks in
-- INIT alone, through the partial index task_ready: what has ended costs nothing.
SELECT wait, count(*) AS tasks, min(submitted_at) AS since
FROM task WHERE state = 'INIT' GROUP BY wait
