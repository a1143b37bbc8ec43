-- What the dispatcher has before it: since when the first task that it may claim is ready, which is
-- one entry of the index task_ready for each lane, and how many claims have not ended, as `claim`
-- counts them.
SELECT (SELECT min(t.ready_at)
        FROM lane l CROSS JOIN LATERAL (
            SELECT w.ready_at FROM task w
            WHERE w.state = 'INIT' AND w.lane = l.id AND w.batch = l.serves
              AND w.ready_at <= %(now)s AND (w.expires_at IS NULL OR w.expires_at > %(now)s)
            ORDER BY w.ready_at LIMIT 1
        ) t
        WHERE l.floor = l.token AND (l.until IS NULL OR l.until > %(now)s)) AS since,
       (SELECT count(*) FROM task
        WHERE state = 'INIT' AND wait = 'attempt' AND ready_at > %(now)s
          AND (expires_at IS NULL OR expires_at > %(now)s)) AS in_flight
