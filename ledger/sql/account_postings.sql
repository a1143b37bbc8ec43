-- The newest movements of an account.
SELECT p.transaction, t.kind, t.task, t.at, p.amount_ub, t.leaf
FROM posting p JOIN ledger_transaction t ON t.id = p.transaction
WHERE p.account = %(id)s ORDER BY p.transaction DESC LIMIT %(limit)s
