-- End tasks whose time is over, and those that took a worker down with them too often.
UPDATE task
SET state = CASE WHEN expires_at <= :now THEN 'EXPIRED' ELSE 'QUARANTINED' END,
    reason = CASE WHEN expires_at <= :now THEN 'expired before it could be settled'
                  ELSE 'its worker died ' || losses || ' times: the task may be poison' END,
    wait = NULL, ended_at = :now
WHERE id IN (
    SELECT id FROM task
    WHERE state = 'INIT'
      AND (expires_at <= :now OR (losses >= :losses_max AND ready_at <= :now))
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
RETURNING id
