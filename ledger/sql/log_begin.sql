-- The accounts that are older than the log, and how many tasks each has settled: those it was paid
-- for, and those it paid.
SELECT a.id AS account, a.quota_ub, a.balance_ub, a.opened_at,
       (SELECT count(*) FROM posting p JOIN ledger_transaction t ON t.id = p.transaction
        WHERE p.account = a.id AND t.kind = 'settle') AS settled
FROM account a ORDER BY a.id
