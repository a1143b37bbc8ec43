-- What the dispatcher has before it: since when the first task that it may claim is ready, which is
-- one entry of the index task_ready, and how many claims have not ended, as `claim` counts them.
SELECT (SELECT min(ready_at) FROM task
        WHERE state = 'INIT' AND ready_at <= %(now)s
          AND (expires_at IS NULL OR expires_at > %(now)s)) AS since,
       (SELECT count(*) FROM task
        WHERE state = 'INIT' AND wait = 'attempt' AND ready_at > %(now)s
          AND (expires_at IS NULL OR expires_at > %(now)s)) AS in_flight
