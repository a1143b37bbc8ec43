INSERT INTO ledger_transaction (id, kind, task, at)
SELECT id, :kind, task, :now
FROM unnest(CAST(:ids AS bigint[]), CAST(:tasks AS uuid[])) AS t (id, task)
