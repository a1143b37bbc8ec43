-- The pages that hold these leaves, in order.
SELECT first, size, entries FROM log_append
WHERE size > %(first)s AND first < %(end)s ORDER BY size LIMIT %(limit)s
