-- The named tokens, or all, the newest first.
SELECT id, secret_sha256, role, coalesce(client, agent) AS tenant, principal, created_at, expires_at,
       revoked_at
FROM token
WHERE CAST(%(ids)s AS text[]) IS NULL OR id = ANY(CAST(%(ids)s AS text[]))
ORDER BY created_at DESC, id
