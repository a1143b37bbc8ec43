-- Claim up to `limit` ready tasks of each lane whose holder may work, never more than the lane's
-- agents can hold in flight; one that has expired holds no room, since nobody works for it any
-- more. Each carries the lane's token from here on: it fences the attempt.
-- Who has been ready longest comes first, late tasks last: a task is late when less of its time is
-- left than a call may take and more than half of it is gone, so that an agent would probably work
-- for nothing. While such tasks stand at the head of the line, its other end is looked at as well.
-- Both looks end after as many rows as there are seats, however many tasks are late or expired.
-- Only under the lock of `claim_lock`: two dispatchers that count the same room would fill it twice.
-- The claim need not be on disk before its tasks are sent: a
-- crash that forgets it lets the task be claimed again under the same number, and whatever ends an
-- attempt waits for the disk, which then holds the claim as well.
WITH open AS (
    SELECT l.id, l.token, l.serves, greatest(0, least(%(limit)s, r.hold - (
        SELECT count(*) FROM task b
        WHERE b.state = 'INIT' AND b.wait = 'attempt' AND b.ready_at > %(now)s AND b.lane = l.id
          AND (b.expires_at IS NULL OR b.expires_at > %(now)s)
    ))) AS seats
    FROM unnest(CAST(%(lanes)s AS text[]), CAST(%(holds)s AS integer[])) AS r (lane, hold)
    JOIN lane l ON l.id = r.lane
    WHERE current_setting('clearlane.claiming') = 'true'
      AND set_config('synchronous_commit', 'off', true) IS NOT NULL
      AND l.floor = l.token AND l.serves IS NOT NULL AND (l.until IS NULL OR l.until > %(now)s)
), oldest AS (
    SELECT open.id AS lane, t.* FROM open CROSS JOIN LATERAL (
        SELECT w.id, w.family, w.ready_at, w.submitted_at, w.expires_at FROM task w
        WHERE w.state = 'INIT' AND w.lane = open.id AND w.batch = open.serves
          AND w.ready_at <= %(now)s
        ORDER BY w.ready_at, w.id
        LIMIT open.seats
        FOR UPDATE SKIP LOCKED
    ) t
), newest AS (
    SELECT open.id AS lane, t.* FROM open CROSS JOIN LATERAL (
        SELECT w.id, w.family, w.ready_at, w.submitted_at, w.expires_at FROM task w
        WHERE w.state = 'INIT' AND w.lane = open.id AND w.batch = open.serves
          AND w.ready_at <= %(now)s
        ORDER BY w.ready_at DESC, w.id DESC
        LIMIT CASE WHEN EXISTS (
            SELECT 1 FROM oldest o WHERE o.lane = open.id
              AND o.expires_at - CAST(%(now)s AS timestamptz) < %(now)s - o.submitted_at
        ) THEN open.seats ELSE 0 END
        FOR UPDATE SKIP LOCKED
    ) t
), line AS (
    SELECT * FROM oldest
    UNION ALL SELECT * FROM newest WHERE id NOT IN (SELECT id FROM oldest)
), ranked AS (
    SELECT l.id, l.lane, f.deadline_s, row_number() OVER (
        PARTITION BY l.lane
        ORDER BY late, CASE WHEN late THEN l.expires_at END DESC, l.ready_at, l.id
    ) AS place
    FROM line l
    JOIN family f ON f.id = l.family
    CROSS JOIN LATERAL (SELECT coalesce(l.expires_at - CAST(%(now)s AS timestamptz) < least(
        make_interval(secs => f.deadline_s), %(now)s - l.submitted_at), false) AS late) AS j
    WHERE l.expires_at IS NULL OR l.expires_at > %(now)s
), ready AS (
    SELECT r.id, r.deadline_s, open.token FROM ranked r JOIN open ON open.id = r.lane
    WHERE r.place <= open.seats
)
UPDATE task t
SET attempt = t.attempt + 1,
    wait = 'attempt',
    fence = r.token,
    ready_at = CAST(%(now)s AS timestamptz) + make_interval(secs => r.deadline_s + %(margin_s)s)
FROM ready r
WHERE t.id = r.id
RETURNING t.id, t.attempt, t.losses, t.lane
