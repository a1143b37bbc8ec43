-- The first run in a lane whose turn has come, if the lane is its own to use and nothing runs there.
-- Only under the locks of `hold_claims` and `cron_turn`.
UPDATE cron_run r
SET state = 'running', lane = %(lane)s, began_at = %(now)s,
    until = CAST(%(now)s AS timestamptz) + make_interval(secs => first.limit_s)
FROM (
    SELECT c.job, c.slot, j.limit_s
    FROM unnest(CAST(%(jobs)s AS text[]), CAST(%(limits)s AS double precision[])) AS j (job, limit_s)
    JOIN cron_run c ON c.job = j.job AND c.state = 'fired'
    JOIN lane l ON l.id = %(lane)s AND l.floor = l.token
    WHERE ((c.fence = 0 AND l.mode = 'cron')
           OR (c.fence = l.token AND l.mode = 'manual' AND l.until > %(now)s))
      AND NOT EXISTS (SELECT FROM cron_run o WHERE o.lane = l.id AND o.state = 'running')
    ORDER BY c.slot, c.job
    LIMIT 1
) first
WHERE r.job = first.job AND r.slot = first.slot AND r.state = 'fired'
RETURNING r.job, r.slot, r.began_at
