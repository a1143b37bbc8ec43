-- Runs that wait for their turn and will not get it any more.
UPDATE cron_run r SET state = 'skipped', reason = d.reason, ended_at = %(now)s
FROM unnest(CAST(%(jobs)s AS text[]), CAST(%(slots)s AS timestamptz[]), CAST(%(reasons)s AS text[]))
    AS d (job, slot, reason)
WHERE r.job = d.job AND r.slot = d.slot AND r.state = 'fired'
