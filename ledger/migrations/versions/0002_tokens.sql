-- Who may speak to the gateway. Of a token only the hash of its secret is kept.

CREATE TABLE token (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{12}$'),
    secret_sha256 bytea NOT NULL CHECK (octet_length(secret_sha256) = 32),
    role text NOT NULL CHECK (role IN ('client', 'agent', 'operator', 'approver', 'viewer')),
    client text REFERENCES client,
    agent text REFERENCES agent,
    principal text NOT NULL CHECK (principal ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$'),
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    CHECK ((role = 'client') = (client IS NOT NULL)),
    CHECK ((role = 'agent') = (agent IS NOT NULL)),
    CHECK (expires_at > created_at)
);

-- Revoking is final; nothing else of a token changes.
CREATE TRIGGER token_revoked BEFORE UPDATE ON token
    FOR EACH ROW WHEN (OLD.revoked_at IS NOT NULL) EXECUTE FUNCTION refuse_change();
GRANT SELECT, INSERT, UPDATE (revoked_at) ON token TO clearlane_app;
