SELECT (SELECT count(*) FROM ledger_transaction) AS transactions,
       (SELECT count(*) FROM ledger_transaction WHERE kind = 'settle') AS settlements,
       (SELECT count(*) FROM task) AS tasks,
       (SELECT -balance_ub FROM account WHERE id = 'system:issuance') AS minted_ub,
       (SELECT balance_ub FROM account WHERE id = 'system:burn') AS burned_ub,
       (SELECT coalesce(sum(balance_ub), 0) FROM account WHERE id LIKE 'client:%') AS clients_ub,
       (SELECT coalesce(sum(balance_ub), 0) FROM account WHERE id LIKE 'agent:%') AS agents_ub,
       (SELECT balance_ub FROM account WHERE id = 'system:commons') AS commons_ub
