-- The payloads of tasks; with an instant, only of those that still want an answer then.
SELECT b.task, b.payload
FROM task_body b JOIN task t ON t.id = b.task
WHERE b.task = ANY(CAST(%(ids)s AS uuid[]))
  AND (CAST(%(now)s AS timestamptz) IS NULL
       OR t.state = 'INIT' AND (t.expires_at IS NULL OR t.expires_at > %(now)s))
