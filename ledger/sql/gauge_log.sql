-- The log, its newest checkpoint, the newest one of the quorum, since when the first after that one
-- waits, and its epochs. One entry of an index each.
SELECT a.size, n.size AS signed, n.at AS signed_at, q.size AS final, q.quorum_at,
       (SELECT w.at FROM log_checkpoint w
        WHERE w.size > coalesce(q.size, 0) ORDER BY w.size LIMIT 1) AS waits_since,
       o.id AS epoch, o.opened_at, c.id AS closed, c.final_at IS NOT NULL AS closed_final
FROM (SELECT size FROM log_append ORDER BY size DESC LIMIT 1) a
LEFT JOIN (SELECT size, at FROM log_checkpoint ORDER BY size DESC LIMIT 1) n ON true
LEFT JOIN (SELECT size, quorum_at FROM log_checkpoint WHERE quorum_at IS NOT NULL
           ORDER BY size DESC LIMIT 1) q ON true
LEFT JOIN (SELECT id, opened_at FROM epoch WHERE closed_at IS NULL) o ON true
LEFT JOIN (SELECT id, final_at FROM epoch WHERE closed_at IS NOT NULL
           ORDER BY id DESC LIMIT 1) c ON true
