-- What goes with a checkpoint that there is not: cosignatures, keys that sign with the one before
-- from there on, epochs that its quorum made final, at that moment.
SELECT 'cosignature of ' || s.witness AS subject,
       'there is no checkpoint of ' || s.size || ' leaves' AS violation
FROM log_cosignature s WHERE NOT EXISTS (SELECT 1 FROM log_checkpoint c WHERE c.size = s.size)
UNION ALL
SELECT 'log key ' || k.vkey, 'there is no checkpoint of ' || k.leaf + 1 || ' leaves'
FROM log_key k WHERE k.leaf IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM log_checkpoint c WHERE c.size = k.leaf + 1)
UNION ALL
SELECT 'epoch ' || e.id, 'it is final, but at that time the quorum signed no checkpoint that holds it'
FROM epoch e WHERE e.final_at IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM log_checkpoint c WHERE c.size >= e.size AND c.quorum_at = e.final_at)
UNION ALL
SELECT 'epoch ' || e.id, 'it is not final although the quorum has signed a checkpoint that holds it'
FROM epoch e WHERE e.size IS NOT NULL AND e.final_at IS NULL AND EXISTS (
    SELECT 1 FROM log_checkpoint c WHERE c.size >= e.size AND c.quorum_at IS NOT NULL)
