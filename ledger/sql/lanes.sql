-- Lanes as they stand; all of them unless they are named. in_flight: claims that have not ended, and
-- runs of cron jobs whose lease has not.
SELECT l.id AS lane, l.token, l.floor, l.mode, l.principal, l.reason, l.serves, l.since,
       l.granted_at, l.until,
       (SELECT count(*) FROM task t
        WHERE t.state = 'INIT' AND t.wait = 'attempt' AND t.ready_at > %(now)s
          AND t.lane = l.id)
       + (SELECT count(*) FROM cron_run c
          WHERE c.lane = l.id AND c.state = 'running' AND c.until > %(now)s) AS in_flight
FROM lane l
WHERE CAST(%(names)s AS text[]) IS NULL OR l.id = ANY(CAST(%(names)s AS text[]))
ORDER BY l.id
