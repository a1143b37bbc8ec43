-- Where in the log a task's settlement stands.
SELECT leaf FROM ledger_transaction WHERE task = CAST(%(task)s AS uuid)
