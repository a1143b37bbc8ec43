-- Claim up to `limit` ready tasks of each lane whose holder may work, never more than the lane's
-- agents can hold in flight. Each carries the lane's token from here on: it fences the attempt.
-- Only under the lock of `claim_lock`: two dispatchers that count the same room would fill it twice.
-- The claim need not be on disk before its tasks are sent: a
-- crash that forgets it lets the task be claimed again under the same number, and whatever ends an
-- attempt waits for the disk, which then holds the claim as well.
WITH open AS (
    SELECT l.id, l.token, l.serves, greatest(0, least(%(limit)s, r.hold - (
        SELECT count(*) FROM task b
        WHERE b.state = 'INIT' AND b.wait = 'attempt' AND b.ready_at > %(now)s AND b.lane = l.id
    ))) AS seats
    FROM unnest(CAST(%(lanes)s AS text[]), CAST(%(holds)s AS integer[])) AS r (lane, hold)
    JOIN lane l ON l.id = r.lane
    WHERE current_setting('clearlane.claiming') = 'true'
      AND set_config('synchronous_commit', 'off', true) IS NOT NULL
      AND l.floor = l.token AND l.serves IS NOT NULL AND (l.until IS NULL OR l.until > %(now)s)
), ready AS (
    SELECT t.id, open.token
    FROM open CROSS JOIN LATERAL (
        SELECT w.id FROM task w
        WHERE w.state = 'INIT' AND w.lane = open.id AND w.batch = open.serves
          AND w.ready_at <= %(now)s AND (w.expires_at IS NULL OR w.expires_at > %(now)s)
        ORDER BY w.ready_at, w.id
        LIMIT open.seats
        FOR UPDATE SKIP LOCKED
    ) t
)
UPDATE task t
SET attempt = t.attempt + 1,
    wait = 'attempt',
    fence = ready.token,
    ready_at = CAST(%(now)s AS timestamptz) + make_interval(secs => f.deadline_s + %(margin_s)s)
FROM ready, family f
WHERE t.id = ready.id AND f.id = t.family
RETURNING t.id, t.attempt, t.losses
