-- The first epoch begins with the log's first leaf.
UPDATE epoch SET opened_at = %(now)s WHERE id = 1 AND first = 0 AND closed_at IS NULL
