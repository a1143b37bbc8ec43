-- The holder may begin: nothing of the one before is accepted from now on.
UPDATE lane SET floor = token, granted_at = %(now)s
WHERE id = %(lane)s AND token = %(token)s AND floor < token
RETURNING id
