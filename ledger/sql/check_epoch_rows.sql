-- The epochs, in order.
SELECT id, opened_at, first, transaction, minted_ub, burned_ub, size, closed_at, totals,
       balances_sha256
FROM epoch ORDER BY id
