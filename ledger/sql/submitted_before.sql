-- Tasks of a client by idempotency key.
SELECT id, idempotency_key, content_sha256, state, batch FROM task
WHERE client = %(client)s AND idempotency_key = ANY(CAST(%(keys)s AS text[]))
