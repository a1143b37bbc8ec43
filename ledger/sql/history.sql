-- What an account held when leaf `index` was the log's last. Transactions and their leaves have one
-- order: the first one after it is found by halves.
WITH RECURSIVE search (low, high) AS (
    SELECT CAST(0 AS bigint), (SELECT coalesce(max(id), -1) + 1 FROM ledger_transaction)
    UNION ALL
    SELECT CASE WHEN s.later THEN s.low ELSE s.middle + 1 END,
           CASE WHEN s.later THEN s.middle ELSE s.high END
    FROM (
        SELECT low, high, (low + high) / 2 AS middle,
               coalesce((SELECT t.leaf FROM ledger_transaction t WHERE t.id = (low + high) / 2)
                        > %(index)s, false) AS later
        FROM search WHERE low < high
    ) s
)
SELECT a.id AS account, l.at, l.epoch,
       (SELECT CAST(coalesce(sum(p.amount_ub), 0) AS bigint) FROM posting p
        WHERE p.account = a.id AND p.transaction < (SELECT high FROM search WHERE low = high)
       ) AS balance_ub
FROM account a
CROSS JOIN (SELECT at, epoch FROM log_append WHERE size > %(index)s ORDER BY size LIMIT 1) l
WHERE a.id = %(account)s
