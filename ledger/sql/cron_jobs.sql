-- Up to where the slots of these jobs are recorded, of all unless they are named.
SELECT id AS job, lane, schedule, since, seen FROM cron_job
WHERE CAST(%(jobs)s AS text[]) IS NULL OR id = ANY(CAST(%(jobs)s AS text[]))
ORDER BY id
