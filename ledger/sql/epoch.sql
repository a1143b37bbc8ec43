-- One epoch.
SELECT id AS epoch, opened_at, closed_at, final_at, first, size, totals, balances_sha256
FROM epoch WHERE id = %(epoch)s
