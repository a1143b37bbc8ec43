-- Claim up to `limit` ready tasks, never more than the fleet can `hold` in flight; one that has
-- expired holds no room, since nobody works for it any more.
-- Who has been ready longest comes first, late tasks last: a task is late when less of its time is
-- left than a call may take and more than half of it is gone, so that an agent would probably work
-- for nothing. While such tasks stand at the head of the line, its other end is looked at as well.
-- Both looks end after as many rows as there are seats, however many tasks are late or expired.
-- Only under the lock of `claim_lock`: two dispatchers that count the same room would fill it twice.
-- The claim need not be on disk before its tasks are sent: a
-- crash that forgets it lets the task be claimed again under the same number, and whatever ends an
-- attempt waits for the disk, which then holds the claim as well.
WITH room AS (
    SELECT CASE WHEN current_setting('clearlane.claiming') = 'true'
                 AND set_config('synchronous_commit', 'off', true) IS NOT NULL
                THEN greatest(0, least(%(limit)s, %(hold)s - count(*))) ELSE 0 END AS seats
    FROM task WHERE state = 'INIT' AND wait = 'attempt' AND ready_at > %(now)s
      AND (expires_at IS NULL OR expires_at > %(now)s)
), oldest AS (
    SELECT id, family, ready_at, submitted_at, expires_at FROM task
    WHERE state = 'INIT' AND ready_at <= %(now)s
    ORDER BY ready_at, id
    LIMIT (SELECT seats FROM room)
    FOR UPDATE SKIP LOCKED
), newest AS (
    SELECT id, family, ready_at, submitted_at, expires_at FROM task
    WHERE state = 'INIT' AND ready_at <= %(now)s
    ORDER BY ready_at DESC, id DESC
    LIMIT (SELECT CASE WHEN EXISTS (
               SELECT 1 FROM oldest
               WHERE expires_at - CAST(%(now)s AS timestamptz) < %(now)s - submitted_at
           ) THEN seats ELSE 0 END FROM room)
    FOR UPDATE SKIP LOCKED
), line AS (
    SELECT * FROM oldest
    UNION ALL SELECT * FROM newest WHERE id NOT IN (SELECT id FROM oldest)
), ready AS (
    SELECT l.id, f.deadline_s
    FROM line l
    JOIN family f ON f.id = l.family
    CROSS JOIN LATERAL (SELECT coalesce(l.expires_at - CAST(%(now)s AS timestamptz) < least(
        make_interval(secs => f.deadline_s), %(now)s - l.submitted_at), false) AS late) AS j
    WHERE l.expires_at IS NULL OR l.expires_at > %(now)s
    ORDER BY late, CASE WHEN late THEN l.expires_at END DESC, l.ready_at, l.id
    LIMIT (SELECT seats FROM room)
)
UPDATE task t
SET attempt = t.attempt + 1,
    wait = 'attempt',
    ready_at = CAST(%(now)s AS timestamptz) + make_interval(secs => r.deadline_s + %(margin_s)s)
FROM ready r
WHERE t.id = r.id
RETURNING t.id, t.attempt, t.losses
