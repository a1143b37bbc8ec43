-- A complete tile.
SELECT hashes FROM log_tile WHERE level = %(level)s AND number = %(number)s
