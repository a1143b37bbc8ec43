-- The accounts that are older than the log.
SELECT id AS account, quota_ub, balance_ub, opened_at, settled FROM account ORDER BY id COLLATE "C"
