-- The leaf hashes of the pages that hold these leaves.
SELECT first, hashes FROM log_append
WHERE size > %(first)s AND first < %(end)s ORDER BY size
