-- The pages of the log, in order; the first one is the empty log.
SELECT size, first, epoch, at, entries, hashes, edge, root FROM log_append ORDER BY size
