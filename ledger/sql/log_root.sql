-- The root of the log when it had so many leaves, if a page ended there.
SELECT root FROM log_append WHERE size = %(size)s
