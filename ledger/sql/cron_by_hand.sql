-- A run that somebody asked for; its slot is now.
INSERT INTO cron_run (job, slot, lane, state, principal, fence, reason, fired_at)
SELECT %(job)s, %(now)s, %(lane)s, 'fired', %(principal)s, %(fence)s, '', %(now)s
ON CONFLICT (job, slot) DO NOTHING
RETURNING slot
