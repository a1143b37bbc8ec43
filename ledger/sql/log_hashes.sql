-- The leaf hashes of the pages that hold these leaves, in order; found as in log_pages.
SELECT first, hashes FROM log_append
WHERE first >= (SELECT first FROM log_append WHERE size > %(first)s ORDER BY size LIMIT 1)
  AND first < %(end)s
ORDER BY first
