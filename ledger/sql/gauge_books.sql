-- Counts and sums without a scan: transaction ids are dense, those that are no settlement have an index
-- of their own, and balances are kept.
SELECT (SELECT coalesce(max(id) + 1, 0) FROM ledger_transaction) AS transactions,
       (SELECT count(*) FROM ledger_transaction WHERE kind <> 'settle') AS others,
       (SELECT -balance_ub FROM account WHERE id = 'system:issuance') AS minted_ub,
       (SELECT balance_ub FROM account WHERE id = 'system:burn') AS burned_ub,
       (SELECT balance_ub FROM account WHERE id = 'system:commons') AS commons_ub,
       (SELECT coalesce(sum(balance_ub), 0) FROM account WHERE id LIKE 'client:%') AS clients_ub,
       (SELECT coalesce(sum(balance_ub), 0) FROM account WHERE id LIKE 'agent:%') AS agents_ub,
       (SELECT version FROM registry_version) AS registry_version
