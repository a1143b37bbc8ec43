-- Tasks that ended without being settled. Settled ones are counted from the ledger's dense ids.
SELECT state, count(*) AS tasks FROM task
WHERE state IN ('QUARANTINED', 'CANCELLED', 'EXPIRED') GROUP BY state
