SELECT id AS account, balance_ub, quota_ub FROM account ORDER BY id
