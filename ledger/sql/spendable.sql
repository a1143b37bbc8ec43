-- What each account may still pay: balance and quota together.
SELECT id, balance_ub + quota_ub AS spendable_ub
FROM account WHERE id = ANY(CAST(%(accounts)s AS text[]))
