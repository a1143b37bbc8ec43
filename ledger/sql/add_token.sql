INSERT INTO token (id, secret_sha256, role, client, agent, principal, created_at, expires_at)
VALUES (%(id)s, %(secret_sha256)s, %(role)s, %(client)s, %(agent)s, %(principal)s, %(created_at)s,
        %(expires_at)s)
