-- The earliest instant at which a waiting task becomes worth trying.
SELECT min(ready_at) AS at FROM task WHERE state = 'INIT' AND ready_at > %(now)s
