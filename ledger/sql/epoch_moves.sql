-- What the close of an epoch took and gave, the largest first; `moved`: how many in all.
SELECT p.account, t.kind, p.amount_ub, a.balance_ub, count(*) OVER () AS moved
FROM ledger_transaction t
JOIN posting p ON p.transaction = t.id
JOIN account a ON a.id = p.account
WHERE t.id >= (SELECT transaction FROM epoch WHERE id = %(epoch)s)
  AND t.kind IN ('clear', 'top_up') AND p.account NOT LIKE 'system:%%'
ORDER BY abs(p.amount_ub) DESC, p.account COLLATE "C" LIMIT %(limit)s
