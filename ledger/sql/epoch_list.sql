-- Epochs before one, or all (0), newest first.
SELECT id AS epoch, opened_at, closed_at, final_at, first, size, totals, balances_sha256
FROM epoch WHERE %(before)s = 0 OR id < %(before)s ORDER BY id DESC LIMIT %(limit)s
