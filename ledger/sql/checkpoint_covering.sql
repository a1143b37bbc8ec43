-- Of the leaf that announces a key, the checkpoint that both keys have signed: whoever knows the old one
-- has no other way to the new one. Of every other leaf the newest checkpoint of the quorum that holds it;
-- without one the newest that holds it.
SELECT c.size, c.note, c.at, c.quorum_at, s.lines, s.witnesses
FROM log_checkpoint c
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(w.line ORDER BY w.at, w.witness), '{}') AS lines,
           coalesce(array_agg(w.witness ORDER BY w.at, w.witness), '{}') AS witnesses
    FROM log_cosignature w WHERE w.size = c.size
) s
WHERE c.size = coalesce(
    (SELECT k.leaf + 1 FROM log_key k WHERE k.leaf = %(index)s),
    (SELECT q.size FROM log_checkpoint q
     WHERE q.quorum_at IS NOT NULL AND q.size > %(index)s ORDER BY q.size DESC LIMIT 1),
    (SELECT n.size FROM log_checkpoint n WHERE n.size > %(index)s ORDER BY n.size DESC LIMIT 1))
