-- The holder may begin: nothing of the one before is accepted from now on.
UPDATE lane SET floor = token, granted_at = greatest(CAST(%(now)s AS timestamptz), since)
WHERE id = %(lane)s AND token = %(token)s AND floor < token
RETURNING id
