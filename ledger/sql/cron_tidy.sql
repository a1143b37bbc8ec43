-- What is long over, of jobs that run many times a minute sooner. Runs that wait under a token that
-- is no longer the lane's, or for a job that nobody has in the table any more, will never begin.
WITH never AS (
    UPDATE cron_run c SET state = 'skipped', ended_at = %(now)s,
        reason = CASE WHEN c.fence = 0 THEN 'the job is no longer in the table'
                 ELSE 'the lane was lost' END
    FROM lane l
    WHERE l.id = c.lane AND c.state = 'fired'
      AND (CASE WHEN c.fence = 0
           THEN c.job <> ALL (CAST(%(jobs)s AS text[]))
                AND c.fired_at < CAST(%(now)s AS timestamptz) - make_interval(secs => %(often_kept_s)s)
           ELSE c.fence <> l.token END)
)
DELETE FROM cron_run c
USING cron_job j
WHERE j.id = c.job AND c.state NOT IN ('fired', 'running')
  AND c.ended_at < CAST(%(now)s AS timestamptz) - make_interval(secs => CASE
      WHEN c.job <> ALL (CAST(%(often)s AS text[])) THEN %(kept_s)s
      WHEN c.state IN ('failed', 'missed') THEN %(failed_kept_s)s
      ELSE %(often_kept_s)s END)
