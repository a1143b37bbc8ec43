SELECT id AS account, balance_ub, quota_ub, opened_at FROM account WHERE id = %(id)s
