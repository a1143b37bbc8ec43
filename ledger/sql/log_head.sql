-- Where the log stands, the epoch it is in, the next transaction, and the share that burns. Only
-- meaningful under the settle lock. tail: the hashes of the pages since the last complete tile.
SELECT a.size, a.edge, e.id AS epoch,
       (SELECT coalesce(max(t.id), -1) + 1 FROM ledger_transaction t) AS transaction,
       (SELECT CAST(value AS integer) FROM param WHERE name = 'tau_ppm') AS tau_ppm,
       (SELECT coalesce(string_agg(p.hashes, '' ORDER BY p.size), '')
        FROM log_append p WHERE p.size > a.size - mod(a.size, 256)) AS tail
FROM (SELECT size, edge FROM log_append ORDER BY size DESC LIMIT 1) a
CROSS JOIN (SELECT id FROM epoch WHERE closed_at IS NULL) e
