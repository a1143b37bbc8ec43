-- What each client may still owe: balance and quota together.
SELECT substr(id, 8) AS client, balance_ub + quota_ub AS spendable_ub
FROM account WHERE id = ANY(CAST(%(accounts)s AS text[]))
