-- The checkpoint of a size, and who has cosigned it.
SELECT c.size, c.note, c.at, c.quorum_at, s.lines, s.witnesses
FROM log_checkpoint c
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(w.line ORDER BY w.at, w.witness), '{}') AS lines,
           coalesce(array_agg(w.witness ORDER BY w.at, w.witness), '{}') AS witnesses
    FROM log_cosignature w WHERE w.size = c.size
) s
WHERE c.size = %(size)s
