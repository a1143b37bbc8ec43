-- A page of the log.
INSERT INTO log_append (size, first, epoch, at, entries, hashes, edge, root)
VALUES (%(size)s, %(first)s, %(epoch)s, %(at)s, %(entries)s, %(hashes)s, %(edge)s, %(root)s)
