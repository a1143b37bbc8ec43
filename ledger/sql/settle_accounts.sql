-- Lock the accounts a chunk moves, in one order.
SELECT id, balance_ub, quota_ub FROM account
WHERE id = ANY(CAST(%(accounts)s AS text[])) ORDER BY id FOR UPDATE
