-- The pages of the log, in order.
SELECT size, first, epoch, entries, hashes, edge, root FROM log_append WHERE size > 0 ORDER BY size
