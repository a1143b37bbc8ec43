-- A job that is new, or has another schedule than before, is due from now on.
INSERT INTO cron_job (id, lane, schedule, since, seen)
SELECT j.id, %(lane)s, j.schedule, %(now)s, %(now)s
FROM unnest(CAST(%(jobs)s AS text[]), CAST(%(schedules)s AS text[])) AS j (id, schedule)
ON CONFLICT (id) DO UPDATE
SET lane = excluded.lane,
    schedule = excluded.schedule,
    since = CASE WHEN cron_job.schedule = excluded.schedule THEN cron_job.since ELSE %(now)s END,
    seen = CASE WHEN cron_job.schedule = excluded.schedule THEN cron_job.seen ELSE %(now)s END
