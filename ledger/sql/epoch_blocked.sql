-- The clients that are topped up: a task of theirs waits for credit, they can spend less than a
-- top-up, and what they paid in this epoch burned as much at least. So nobody gains by it, under
-- however many names.
SELECT a.id AS account
FROM (SELECT DISTINCT client FROM task WHERE state = 'INIT' AND wait = 'credit' AND client IS NOT NULL) t
JOIN account a ON a.id = 'client:' || t.client
WHERE a.balance_ub + a.quota_ub < %(top_up_ub)s
  AND %(top_up_ub)s <= (
    SELECT coalesce(sum(b.amount_ub), 0)
    FROM posting p
    JOIN ledger_transaction l ON l.id = p.transaction AND l.kind = 'settle'
    JOIN posting b ON b.transaction = p.transaction AND b.account = 'system:burn'
    WHERE p.account = a.id AND p.transaction >= %(transaction)s AND p.amount_ub < 0)
ORDER BY a.id COLLATE "C"
