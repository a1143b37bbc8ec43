-- The earliest instant at which a waiting task of a lane that is open becomes worth trying. A lane
-- that opens says so itself.
SELECT min(t.ready_at) AS at
FROM lane l CROSS JOIN LATERAL (
    SELECT w.ready_at FROM task w
    WHERE w.state = 'INIT' AND w.lane = l.id AND w.batch = l.serves AND w.ready_at > %(now)s
    ORDER BY w.ready_at LIMIT 1
) t
WHERE l.floor = l.token
