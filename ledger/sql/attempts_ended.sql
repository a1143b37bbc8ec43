-- Which of these attempts have ended.
SELECT CAST(a.task AS text) AS task, a.attempt
FROM unnest(CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[])) AS g (task, attempt)
JOIN attempt a ON a.task = g.task AND a.attempt = g.attempt
