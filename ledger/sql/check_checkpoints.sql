-- Every checkpoint, the root of the log at its size, and its cosignatures.
SELECT c.size, c.note, a.root,
       coalesce(array_agg(s.witness ORDER BY s.witness) FILTER (WHERE s.size IS NOT NULL), '{}')
           AS witnesses,
       coalesce(array_agg(s.line ORDER BY s.witness) FILTER (WHERE s.size IS NOT NULL), '{}')
           AS lines
FROM log_checkpoint c
LEFT JOIN log_append a ON a.size = c.size
LEFT JOIN log_cosignature s ON s.size = c.size
GROUP BY c.size, c.note, a.root ORDER BY c.size
