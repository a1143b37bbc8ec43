-- The first epoch begins with the log's first leaf. The ledger may be older.
UPDATE epoch e
SET opened_at = %(now)s,
    transaction = (SELECT coalesce(max(id), -1) + 1 FROM ledger_transaction),
    minted_ub = -(SELECT balance_ub FROM account WHERE id = 'system:issuance'),
    burned_ub = (SELECT balance_ub FROM account WHERE id = 'system:burn')
WHERE e.id = 1 AND e.first = 0 AND e.closed_at IS NULL
