INSERT INTO batch (lane, client, principal, reason, file, file_sha256, options, items, began_at)
VALUES (%(lane)s, %(client)s, %(principal)s, %(reason)s, %(file)s, %(sha256)s, %(options)s,
        %(items)s, %(now)s)
RETURNING id
