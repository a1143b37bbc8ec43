-- All postings of the given transactions; the trigger checks them and moves the balances.
INSERT INTO posting (transaction, account, amount_ub)
SELECT * FROM unnest(CAST(%(transactions)s AS bigint[]), CAST(%(accounts)s AS text[]),
                     CAST(%(amounts)s AS bigint[]))
