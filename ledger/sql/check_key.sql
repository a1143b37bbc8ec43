-- The key that a leaf announces, if it is kept.
SELECT vkey FROM log_key WHERE leaf = %(leaf)s
