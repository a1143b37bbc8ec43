-- A claim that still stands lasts until then at least.
UPDATE task t SET ready_at = %(until)s
FROM unnest(CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[])) AS k (id, attempt)
WHERE t.id = k.id AND t.attempt = k.attempt AND t.state = 'INIT' AND t.wait = 'attempt'
  AND t.ready_at < %(until)s
