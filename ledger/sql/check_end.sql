-- The id that the next transaction gets.
SELECT coalesce(max(id), -1) + 1 AS transaction FROM ledger_transaction
