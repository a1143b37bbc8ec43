-- Whether this token may act now, and nobody takes the lane until this transaction ends.
SELECT id FROM lane
WHERE id = %(lane)s AND token = %(token)s AND floor = token AND (until IS NULL OR until > %(now)s)
FOR SHARE
