-- What has been minted and burned in all, and how many tasks were settled from a transaction on.
SELECT -(SELECT balance_ub FROM account WHERE id = 'system:issuance') AS minted_ub,
       (SELECT balance_ub FROM account WHERE id = 'system:burn') AS burned_ub,
       (SELECT count(*) FROM ledger_transaction
        WHERE id >= %(transaction)s AND kind = 'settle') AS settled
