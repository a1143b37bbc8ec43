-- A clock that was ahead has recorded slots that are still to come. They will come.
WITH gone AS (DELETE FROM cron_run WHERE job = ANY(CAST(%(jobs)s AS text[])) AND slot > %(now)s)
UPDATE cron_job SET since = least(since, %(now)s), seen = %(now)s
WHERE id = ANY(CAST(%(jobs)s AS text[])) AND seen > %(now)s
RETURNING id
