-- Claim up to `limit` ready tasks, never more than the fleet can `hold` in flight.
-- Only under the lock of `claim_lock`: two dispatchers that count the same room would fill it twice.
-- The claim need not be on disk before its tasks are sent: a
-- crash that forgets it lets the task be claimed again under the same number, and whatever ends an
-- attempt waits for the disk, which then holds the claim as well.
WITH room AS (
    SELECT CASE WHEN current_setting('clearlane.claiming') = 'true'
                 AND set_config('synchronous_commit', 'off', true) IS NOT NULL
                THEN greatest(0, least(%(limit)s, %(hold)s - count(*))) ELSE 0 END AS seats
    FROM task WHERE state = 'INIT' AND wait = 'attempt' AND ready_at > %(now)s
), ready AS (
    SELECT id FROM task
    WHERE state = 'INIT' AND ready_at <= %(now)s
      AND (expires_at IS NULL OR expires_at > %(now)s)
    ORDER BY ready_at, id
    LIMIT (SELECT seats FROM room)
    FOR UPDATE SKIP LOCKED
)
UPDATE task t
SET attempt = t.attempt + 1,
    wait = 'attempt',
    ready_at = CAST(%(now)s AS timestamptz) + make_interval(secs => f.deadline_s + %(margin_s)s)
FROM ready, family f
WHERE t.id = ready.id AND f.id = t.family
RETURNING t.id, t.attempt, t.losses
