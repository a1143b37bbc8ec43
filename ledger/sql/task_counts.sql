-- How many tasks stand where; waiting ones by reason.
SELECT state, wait, count(*) AS tasks FROM task GROUP BY state, wait ORDER BY state, wait
