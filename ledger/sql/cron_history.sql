-- The runs of a job, newest slot first.
SELECT job, slot, lane, state, principal, slots, reason, fired_at, began_at, ended_at,
       extract(epoch FROM ended_at - began_at) AS took_s
FROM cron_run WHERE job = %(job)s
ORDER BY slot DESC
LIMIT %(limit)s
