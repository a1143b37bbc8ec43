-- Insert tasks and their payloads; a payer's idempotency key that exists is left as it is.
-- A task without a size has its family's. Returns the ids that were inserted; with an unknown client,
-- family or lane there are none. With a parent there is no client: the last of the chain pays.
WITH given AS (
    SELECT * FROM unnest(
        CAST(%(ids)s AS uuid[]), CAST(%(families)s AS text[]), CAST(%(types)s AS text[]),
        CAST(%(sizes)s AS integer[]), CAST(%(expires)s AS timestamptz[]), CAST(%(keys)s AS text[]),
        CAST(%(hashes)s AS bytea[]), CAST(%(payloads)s AS text[]), CAST(%(lanes)s AS text[])
    ) AS g (id, family, type, size, expires_at, idempotency_key, content_sha256, payload, lane)
), added AS (
    INSERT INTO task (id, client, family, type, size, expires_at, idempotency_key,
                      content_sha256, submitted_at, ready_at, lane, batch,
                      parent, parent_attempt, chain, budget_ub)
    SELECT g.id, c.id, f.id, g.type, coalesce(g.size, f.size), g.expires_at, g.idempotency_key,
           g.content_sha256, %(now)s, %(ready_at)s, g.lane, %(batch)s,
           CAST(%(parent)s AS uuid), CAST(%(parent_attempt)s AS integer),
           CAST(%(chain)s AS text[]), CAST(%(budget_ub)s AS bigint)
    FROM given g JOIN family f ON f.id = g.family JOIN lane l ON l.id = g.lane
    LEFT JOIN client c ON c.id = CAST(%(client)s AS text)
    WHERE (c.id IS NULL) = (CAST(%(parent)s AS uuid) IS NOT NULL)
    ON CONFLICT (payer, idempotency_key) DO NOTHING
    RETURNING id
), bodies AS (
    INSERT INTO task_body (task, payload)
    SELECT g.id, CAST(g.payload AS json) FROM given g JOIN added USING (id)
)
SELECT id FROM added
