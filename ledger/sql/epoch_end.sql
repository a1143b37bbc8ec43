-- Close an epoch.
UPDATE epoch SET size = %(size)s, closed_at = %(now)s, totals = CAST(%(totals)s AS jsonb),
                 balances_sha256 = %(balances_sha256)s
WHERE id = %(epoch)s AND closed_at IS NULL
