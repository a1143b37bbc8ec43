-- Runs whose lease has ended, and those that only a clock ahead of today's can have started.
UPDATE cron_run SET state = 'failed', ended_at = greatest(began_at, %(now)s),
    reason = 'it did not end within its limit'
WHERE lane = %(lane)s AND state = 'running'
  AND (until <= %(now)s OR began_at > CAST(%(now)s AS timestamptz) + make_interval(secs => %(doubt_s)s))
