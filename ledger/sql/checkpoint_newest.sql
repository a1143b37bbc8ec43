-- The newest checkpoint and who has cosigned it.
SELECT c.size, c.note, c.at, c.quorum_at, s.lines, s.witnesses
FROM (SELECT * FROM log_checkpoint ORDER BY size DESC LIMIT 1) c
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(w.line ORDER BY w.at, w.witness), '{}') AS lines,
           coalesce(array_agg(w.witness ORDER BY w.at, w.witness), '{}') AS witnesses
    FROM log_cosignature w WHERE w.size = c.size
) s
