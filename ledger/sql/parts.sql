-- How many subtasks an attempt has.
SELECT count(*) AS count FROM task
WHERE parent = CAST(%(id)s AS uuid) AND parent_attempt = %(attempt)s
