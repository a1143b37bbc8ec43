-- The payloads of tasks; with an instant, only of those that still want an answer then, and from
-- whoever works for the holder of their lane, or for one before as long as his work drains.
SELECT b.task, b.payload
FROM task_body b JOIN task t ON t.id = b.task JOIN lane l ON l.id = t.lane
WHERE b.task = ANY(CAST(%(ids)s AS uuid[]))
  AND (CAST(%(now)s AS timestamptz) IS NULL
       OR t.state = 'INIT' AND (t.expires_at IS NULL OR t.expires_at > %(now)s)
          AND t.fence >= l.floor)
