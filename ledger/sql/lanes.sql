-- Lanes as they stand; all of them unless they are named. in_flight: claims that have not ended.
SELECT l.id AS lane, l.token, l.floor, l.mode, l.principal, l.reason, l.serves, l.since,
       l.granted_at, l.until,
       (SELECT count(*) FROM task t
        WHERE t.state = 'INIT' AND t.wait = 'attempt' AND t.ready_at > %(now)s
          AND t.lane = l.id) AS in_flight
FROM lane l
WHERE CAST(%(names)s AS text[]) IS NULL OR l.id = ANY(CAST(%(names)s AS text[]))
ORDER BY l.id
