-- The pages that hold these leaves, in order. Pages follow each other without a gap, so a range of
-- their beginnings ends the search; by their ends alone it would go on to the end of the log.
SELECT first, size, entries FROM log_append
WHERE first >= (SELECT first FROM log_append WHERE size > %(first)s ORDER BY size LIMIT 1)
  AND first < %(end)s
ORDER BY first LIMIT %(limit)s
