-- Attempts that found no seat wait again, with the reason and the instant to look again.
UPDATE task t SET wait = b.wait, ready_at = b.ready_at
FROM unnest(CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[]), CAST(%(waits)s AS text[]),
            CAST(%(ready)s AS timestamptz[])) AS b (id, attempt, wait, ready_at)
WHERE t.id = b.id AND t.attempt = b.attempt AND t.state = 'INIT' AND t.wait = 'attempt'
