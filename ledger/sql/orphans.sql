-- Cancel subtasks that wait although the attempt that asked for them is over. One in flight goes on:
-- its agent works for whoever ordered it.
UPDATE task
SET state = 'CANCELLED', wait = NULL, ended_at = %(now)s,
    reason = 'the attempt that asked for it is over'
WHERE id IN (
    SELECT t.id FROM task t JOIN task p ON p.id = t.parent
    WHERE t.parent IS NOT NULL AND t.state = 'INIT' AND t.wait <> 'attempt'
      AND NOT (p.state = 'INIT' AND p.wait = 'attempt' AND p.attempt = t.parent_attempt)
    LIMIT %(limit)s
    FOR UPDATE OF t SKIP LOCKED
)
RETURNING id
