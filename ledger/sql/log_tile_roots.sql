-- The roots of complete tiles of a level, in order.
SELECT number, root FROM log_tile
WHERE level = %(level)s AND number >= %(first)s AND number < %(end)s ORDER BY number
