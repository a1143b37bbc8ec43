-- How long the log is, and its root.
SELECT size, root FROM log_append ORDER BY size DESC LIMIT 1
