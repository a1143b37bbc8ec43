-- The transactions that have a leaf, with their postings, and with the task and the result of those
-- that settle one; in order.
SELECT t.id, t.leaf, t.kind, CAST(t.task AS text), t.at,
       (SELECT array_agg(p.account || ' ' || p.amount_ub) FROM posting p WHERE p.transaction = t.id),
       k.payer, k.size, k.ended_at, r.agent, r.attempt, r.cost_ub,
       encode(sha256(convert_to(CAST(r.output AS text), 'UTF8')), 'hex')
FROM ledger_transaction t
LEFT JOIN task k ON k.id = t.task
LEFT JOIN task_result r ON r.task = t.task
WHERE t.leaf IS NOT NULL ORDER BY t.id
