INSERT INTO ledger_transaction (id, kind, task, at)
SELECT id, %(kind)s, task, %(now)s
FROM unnest(CAST(%(ids)s AS bigint[]), CAST(%(tasks)s AS uuid[])) AS t (id, task)
