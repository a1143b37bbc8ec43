-- All postings of the given transactions; the trigger checks them and moves the balances.
INSERT INTO posting (transaction, account, amount_ub)
SELECT * FROM unnest(CAST(:transactions AS bigint[]), CAST(:accounts AS text[]),
                     CAST(:amounts AS bigint[]))
