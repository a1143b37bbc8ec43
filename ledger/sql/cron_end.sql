-- A run has ended. No row: its lease had ended before, and it counts as failed.
UPDATE cron_run SET state = %(state)s, reason = %(reason)s, ended_at = greatest(began_at, %(now)s)
WHERE job = %(job)s AND slot = %(slot)s AND state = 'running'
RETURNING job
