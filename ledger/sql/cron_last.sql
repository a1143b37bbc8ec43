-- The newest run of each job that has begun.
SELECT DISTINCT ON (job) job, slot, state, reason, began_at,
       extract(epoch FROM ended_at - began_at) AS took_s
FROM cron_run WHERE state IN ('running', 'done', 'failed')
ORDER BY job, slot DESC
