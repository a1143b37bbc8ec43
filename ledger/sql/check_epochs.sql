-- Every violation of what epochs are, one row each (C8), and of what ties transactions to the log
-- (C7). A transaction lies in the epoch in whose range its id is, and so must its leaf.
WITH span AS (
    SELECT e.*, lead(e.id) OVER w AS next_id, lead(e.first) OVER w AS next_first,
           coalesce(lead(e.transaction) OVER w, 9223372036854775807) AS before
    FROM epoch e WINDOW w AS (ORDER BY e.id)
), moved AS (
    SELECT s.id AS epoch,
           count(DISTINCT t.id) FILTER (WHERE t.kind = 'settle') AS settled,
           coalesce(sum(p.amount_ub) FILTER (WHERE p.account = 'system:burn'), 0) AS burned_ub,
           coalesce(-sum(p.amount_ub) FILTER (WHERE p.account = 'system:issuance'), 0) AS minted_ub,
           coalesce(sum(p.amount_ub) FILTER (
               WHERE p.account = 'system:commons' AND t.kind = 'clear'), 0) AS cleared_ub,
           coalesce(sum(p.amount_ub) FILTER (
               WHERE p.account LIKE 'client:%' AND t.kind = 'top_up'), 0) AS top_up_ub
    FROM span s
    JOIN ledger_transaction t ON t.id >= s.transaction AND t.id < s.before
    LEFT JOIN posting p ON p.transaction = t.id
    WHERE s.closed_at IS NOT NULL GROUP BY s.id
), stated AS (
    SELECT s.id, v.name, v.stated, v.found
    FROM span s LEFT JOIN moved m ON m.epoch = s.id
    CROSS JOIN LATERAL (VALUES
        ('settled', CAST(s.totals ->> 'settled' AS bigint), coalesce(m.settled, 0)),
        ('burned', CAST(s.totals ->> 'burned_ub' AS bigint), coalesce(m.burned_ub, 0)),
        ('minted', CAST(s.totals ->> 'minted_ub' AS bigint), coalesce(m.minted_ub, 0)),
        ('cleared', CAST(s.totals ->> 'demurrage_ub' AS bigint)
            + CAST(s.totals ->> 'charge_ub' AS bigint), coalesce(m.cleared_ub, 0)),
        ('topped up', CAST(s.totals ->> 'top_up_ub' AS bigint), coalesce(m.top_up_ub, 0))
    ) AS v (name, stated, found)
    WHERE s.closed_at IS NOT NULL
)
SELECT 'C8' AS invariant, 'epoch ' || id AS subject,
       name || ' ' || coalesce(stated, 0) || ' but its postings say ' || found AS violation
FROM stated WHERE stated IS DISTINCT FROM found
UNION ALL
SELECT 'C8', 'epoch ' || id, 'ends at leaf ' || coalesce(CAST(size AS text), 'none')
       || ' but epoch ' || next_id || ' begins at ' || next_first
FROM span WHERE next_id IS NOT NULL AND (size IS DISTINCT FROM next_first OR next_id <> id + 1)
UNION ALL
SELECT 'C8', 'epochs', count(*) || ' are open, not 1' FROM epoch WHERE closed_at IS NULL
HAVING count(*) <> 1
UNION ALL
SELECT 'C8', 'transaction ' || t.id, 'its leaf ' || t.leaf || ' is outside of epoch ' || s.id
FROM span s JOIN ledger_transaction t ON t.id >= s.transaction AND t.id < s.before
WHERE t.leaf < s.first OR t.leaf >= s.size
UNION ALL
SELECT 'C8', 'log page ' || a.size, 'it is of epoch ' || a.epoch || ' but outside of its leaves'
FROM log_append a JOIN epoch e ON e.id = a.epoch WHERE a.first < e.first OR a.size > e.size
UNION ALL
SELECT 'C7', 'transaction ' || t.id, 'it has no leaf although the log had begun'
FROM ledger_transaction t
WHERE t.leaf IS NULL AND t.id >= (SELECT transaction FROM epoch WHERE id = 1)
  AND EXISTS (SELECT 1 FROM log_append WHERE size > 0)
UNION ALL
SELECT 'C1', 'account ' || a.id,
       'settled ' || a.settled || ' tasks but ' || coalesce(p.settled, 0) || ' settlements moved it'
FROM account a
LEFT JOIN (
    SELECT p.account, count(*) AS settled
    FROM posting p JOIN ledger_transaction t ON t.id = p.transaction
    WHERE t.kind = 'settle' GROUP BY p.account
) p ON p.account = a.id
WHERE a.settled <> coalesce(p.settled, 0)
