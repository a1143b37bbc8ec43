-- Tasks that wait for an instant further away than any wait is long. What waits may be claimed now, a
-- claim gets its usual length.
UPDATE task t
SET ready_at = CAST(%(now)s AS timestamptz) + CASE
    WHEN t.wait = 'attempt' THEN make_interval(secs => f.deadline_s + %(margin_s)s)
    ELSE interval '0' END
FROM family f
WHERE f.id = t.family AND t.state = 'INIT'
  AND t.ready_at > CAST(%(now)s AS timestamptz) + make_interval(secs => %(ahead_s)s)
  AND (t.wait <> 'attempt' OR t.ready_at > CAST(%(now)s AS timestamptz)
       + make_interval(secs => f.deadline_s + %(margin_s)s + %(ahead_s)s))
RETURNING t.id
