-- Transactions with all their postings; the trigger checks these and moves the balances. A posting
-- names its account by its place in `names`: there are few of them, and numbers are cheap to read.
-- Their leaves come one after the other, as they do.
WITH made AS (
    INSERT INTO ledger_transaction (id, kind, task, at, leaf)
    SELECT id, %(kind)s, task, %(now)s, id + %(leaf)s
    FROM unnest(CAST(%(ids)s AS bigint[]), CAST(%(tasks)s AS uuid[])) AS t (id, task)
)
INSERT INTO posting (transaction, account, amount_ub)
SELECT transaction, (CAST(%(names)s AS text[]))[place], amount_ub
FROM unnest(CAST(%(transactions)s AS bigint[]), CAST(%(places)s AS integer[]),
            CAST(%(amounts)s AS bigint[])) AS p (transaction, place, amount_ub)
