-- Every violation of the ledger's invariants, one row each: invariant, subject, what is wrong.
-- No rows: everything holds (C1-C4 as far as PostgreSQL knows).
SELECT 'C1' AS invariant, 'transaction ' || transaction AS subject,
       'postings sum to ' || sum(amount_ub) || ', not 0' AS violation
FROM posting GROUP BY transaction HAVING sum(amount_ub) <> 0
UNION ALL
SELECT 'C1', 'account ' || a.id,
       'balance ' || a.balance_ub || ' but its postings sum to ' || coalesce(p.total, 0)
FROM account a
LEFT JOIN (SELECT account, sum(amount_ub) AS total FROM posting GROUP BY account) p
  ON p.account = a.id
WHERE a.balance_ub <> coalesce(p.total, 0)
UNION ALL
SELECT 'C1', 'all accounts', 'balances sum to ' || sum(balance_ub) || ', not 0'
FROM account HAVING sum(balance_ub) <> 0
UNION ALL
SELECT 'C1', 'posting on ' || p.account, 'there is no such account'
FROM posting p WHERE NOT EXISTS (SELECT 1 FROM account a WHERE a.id = p.account)
UNION ALL
SELECT 'C1', 'transaction ' || p.transaction, 'it has postings but does not exist'
FROM posting p
WHERE NOT EXISTS (SELECT 1 FROM ledger_transaction t WHERE t.id = p.transaction)
UNION ALL
SELECT 'C1', 'transactions', 'ids are not dense: ' || count(*) || ' rows, highest id ' || max(id)
FROM ledger_transaction HAVING count(*) <> max(id) + 1
UNION ALL
SELECT 'C2', 'task ' || t.id,
       'committed at ' || coalesce(r.cost_ub, -1) || ' but paid ' || coalesce(-p.paid_ub, 0)
FROM task t
LEFT JOIN task_result r ON r.task = t.id
LEFT JOIN (
    SELECT l.task, sum(p.amount_ub) FILTER (WHERE p.amount_ub < 0) AS paid_ub
    FROM ledger_transaction l JOIN posting p ON p.transaction = l.id
    WHERE l.kind = 'settle' GROUP BY l.task
) p ON p.task = t.id
WHERE t.state = 'COMMITTED' AND (r.cost_ub IS NULL OR r.cost_ub <> coalesce(-p.paid_ub, 0))
UNION ALL
SELECT 'C2', 'task ' || l.task, 'paid although it is ' || coalesce(t.state, 'unknown')
FROM ledger_transaction l LEFT JOIN task t ON t.id = l.task
WHERE l.kind = 'settle' AND t.state IS DISTINCT FROM 'COMMITTED'
UNION ALL
SELECT 'C2', 'task ' || t.id, 'committed without a settlement'
FROM task t
WHERE t.state = 'COMMITTED'
  AND NOT EXISTS (SELECT 1 FROM ledger_transaction l WHERE l.task = t.id)
UNION ALL
SELECT 'C2', 'task ' || t.id, 'committed without the record of the attempt that its result names'
FROM task t JOIN task_result r ON r.task = t.id
WHERE t.state = 'COMMITTED' AND NOT EXISTS (
    SELECT 1 FROM attempt a
    WHERE a.task = t.id AND a.attempt = r.attempt AND a.state = 'COMMITTED'
      AND a.outcome = 'ok' AND a.agent = r.agent AND a.cost_ub = r.cost_ub
      AND a.ended_at = t.ended_at)
UNION ALL
SELECT 'C2', 'task ' || r.task, 'it has a result without a settlement'
FROM task_result r
WHERE NOT EXISTS (SELECT 1 FROM ledger_transaction l WHERE l.task = r.task)
UNION ALL
SELECT 'C2', 'task ' || a.task, 'attempt ' || a.attempt || ' is committed, but not its result'
FROM attempt a WHERE a.state = 'COMMITTED' AND NOT EXISTS (
    SELECT 1 FROM task_result r WHERE r.task = a.task AND r.attempt = a.attempt)
UNION ALL
SELECT 'C2', 'task ' || t.id, 'paid to another account than agent:' || r.agent
       || ', or by another than ' || coalesce(t.payer, 'nobody')
FROM task t JOIN task_result r ON r.task = t.id JOIN ledger_transaction l ON l.task = t.id
WHERE EXISTS (
    SELECT 1 FROM posting p WHERE p.transaction = l.id
      AND p.account IS DISTINCT FROM CASE WHEN p.amount_ub < 0 THEN t.payer
                                          WHEN p.account = 'system:burn' THEN p.account
                                          ELSE 'agent:' || r.agent END)
UNION ALL
SELECT 'C2', 'attempt ' || t.parent_attempt || ' of task ' || t.parent,
       'its subtasks cost ' || sum(r.cost_ub) || ' of a budget of ' || min(t.budget_ub)
FROM task t JOIN task_result r ON r.task = t.id
WHERE t.parent IS NOT NULL
GROUP BY t.parent, t.parent_attempt HAVING sum(r.cost_ub) > min(t.budget_ub)
UNION ALL
SELECT 'C2', 'task ' || t.id, 'agent ' || r.agent || ' was paid for a part of its own task'
FROM task t JOIN task_result r ON r.task = t.id WHERE r.agent = ANY(t.chain)
UNION ALL
SELECT 'C3', 'task ' || t.id, 'it is in INIT without a reason to wait'
FROM task t WHERE t.state = 'INIT' AND t.wait IS NULL
UNION ALL
SELECT 'C4', 'account ' || id, 'balance ' || balance_ub || ' is below its quota ' || quota_ub
FROM account WHERE quota_ub IS NOT NULL AND balance_ub < -quota_ub
