-- Cancel a task that has not ended. What is in flight is refused at its settlement.
UPDATE task SET state = 'CANCELLED', wait = NULL, ended_at = %(now)s, reason = 'cancelled by request'
WHERE id = CAST(%(id)s AS uuid) AND state = 'INIT'
RETURNING id
