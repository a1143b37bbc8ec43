-- The next dense transaction id. Only meaningful under the settle lock.
SELECT coalesce(max(id), -1) + 1 AS id FROM ledger_transaction
