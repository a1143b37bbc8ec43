-- Claim up to :limit ready tasks, never more than the fleet can hold in flight (:hold).
-- A task that was in flight and comes back this way lost its attempt together with a process.
WITH room AS (
    SELECT greatest(0, least(:limit, :hold - count(*))) AS seats
    FROM task WHERE state = 'INIT' AND wait = 'attempt' AND ready_at > :now
), ready AS (
    SELECT id FROM task
    WHERE state = 'INIT' AND ready_at <= :now AND losses < :losses_max
      AND (expires_at IS NULL OR expires_at > :now)
    ORDER BY ready_at, id
    LIMIT (SELECT seats FROM room)
    FOR UPDATE SKIP LOCKED
)
UPDATE task t
SET attempt = t.attempt + 1,
    losses = t.losses + CAST(t.wait = 'attempt' AS integer),
    wait = 'attempt',
    ready_at = CAST(:now AS timestamptz) + make_interval(secs => f.deadline_s + :margin_s)
FROM ready, family f
WHERE t.id = ready.id AND f.id = t.family
RETURNING t.id, t.attempt, t.losses
