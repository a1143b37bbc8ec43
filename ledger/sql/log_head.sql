-- Where the log stands, the epoch it is in, and the next transaction. Only meaningful under the
-- settle lock. tail: the hashes of the pages since the last complete tile.
SELECT a.size, a.edge, e.id AS epoch,
       (SELECT coalesce(max(t.id), -1) + 1 FROM ledger_transaction t) AS transaction,
       (SELECT coalesce(string_agg(p.hashes, '' ORDER BY p.size), '')
        FROM log_append p WHERE p.size > a.size - mod(a.size, 256)) AS tail
FROM (SELECT size, edge FROM log_append ORDER BY size DESC LIMIT 1) a
CROSS JOIN (SELECT id FROM epoch WHERE closed_at IS NULL) e
