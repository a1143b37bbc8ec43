-- One run.
SELECT job, slot, lane, state, principal, slots, reason, fired_at, began_at, ended_at,
       extract(epoch FROM ended_at - began_at) AS took_s
FROM cron_run WHERE job = %(job)s AND slot = %(slot)s
