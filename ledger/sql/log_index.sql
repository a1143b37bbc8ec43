-- The last leaf that was written at or before an instant.
SELECT size - 1 AS index FROM log_append WHERE size > 0 AND at <= %(when)s
ORDER BY size DESC LIMIT 1
