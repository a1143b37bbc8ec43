-- Runs of these jobs that wait for their turn; `waits`: those asked for by hand too.
SELECT j.job,
       array(SELECT c.slot FROM cron_run c
             WHERE c.job = j.job AND c.state = 'fired' AND c.fence = 0 AND c.principal = 'beat'
             ORDER BY c.slot) AS slots,
       EXISTS (SELECT FROM cron_run c WHERE c.job = j.job AND c.state = 'fired') AS waits
FROM unnest(CAST(%(jobs)s AS text[])) AS j (job)
