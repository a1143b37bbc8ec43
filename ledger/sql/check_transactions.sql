-- The transactions that have a leaf, with their postings, in order.
SELECT t.id, t.leaf, t.kind, CAST(t.task AS text),
       (SELECT array_agg(p.account || ' ' || p.amount_ub) FROM posting p WHERE p.transaction = t.id)
FROM ledger_transaction t WHERE t.leaf IS NOT NULL ORDER BY t.id
