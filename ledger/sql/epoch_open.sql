-- The open epoch; begun: whether the log has a leaf at all.
SELECT e.id, e.opened_at, e.first, e.transaction, e.minted_ub, e.burned_ub,
       EXISTS (SELECT 1 FROM log_append WHERE size > 0) AS begun
FROM epoch e WHERE e.closed_at IS NULL
