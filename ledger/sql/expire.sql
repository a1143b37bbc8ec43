-- End tasks whose time is over.
UPDATE task
SET state = 'EXPIRED', wait = NULL, ended_at = %(now)s,
    reason = 'expired before it could be settled'
WHERE id IN (
    SELECT id FROM task
    WHERE state = 'INIT' AND expires_at <= %(now)s
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
RETURNING id
