-- Counts and sums without a scan: transaction ids are dense, each mint has one posting on issuance
-- (an index range), and balances are kept.
SELECT (SELECT coalesce(max(id) + 1, 0) FROM ledger_transaction) AS transactions,
       (SELECT count(*) FROM posting WHERE account = 'system:issuance') AS mints,
       (SELECT -balance_ub FROM account WHERE id = 'system:issuance') AS minted_ub,
       (SELECT balance_ub FROM account WHERE id = 'system:burn') AS burned_ub,
       (SELECT coalesce(sum(balance_ub), 0) FROM account WHERE id LIKE 'client:%') AS clients_ub,
       (SELECT version FROM registry_version) AS registry_version
