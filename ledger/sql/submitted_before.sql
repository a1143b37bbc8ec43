-- Tasks of a payer by idempotency key.
SELECT id, idempotency_key, content_sha256, state, batch FROM task
WHERE payer = %(payer)s AND idempotency_key = ANY(CAST(%(keys)s AS text[]))
