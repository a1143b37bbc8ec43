-- Insert tasks and their payloads; a client's idempotency key that exists is left as it is.
-- Returns the ids that were inserted.
WITH given AS (
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:families AS text[]), CAST(:types AS text[]),
        CAST(:sizes AS integer[]), CAST(:expires AS timestamptz[]), CAST(:keys AS text[]),
        CAST(:hashes AS bytea[]), CAST(:payloads AS text[])
    ) AS g (id, family, type, size, expires_at, idempotency_key, content_sha256, payload)
), added AS (
    INSERT INTO task (id, client, family, type, size, expires_at, idempotency_key,
                      content_sha256, submitted_at, ready_at)
    SELECT id, :client, family, type, size, expires_at, idempotency_key,
           content_sha256, :now, :now
    FROM given
    ON CONFLICT (client, idempotency_key) DO NOTHING
    RETURNING id
), bodies AS (
    INSERT INTO task_body (task, payload)
    SELECT g.id, CAST(g.payload AS json) FROM given g JOIN added USING (id)
)
SELECT id FROM added
