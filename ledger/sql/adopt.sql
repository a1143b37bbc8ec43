-- Tasks that an earlier batch left unfinished belong to this one.
UPDATE task SET batch = %(batch)s
WHERE id = ANY(CAST(%(ids)s AS uuid[])) AND state = 'INIT' AND batch <> %(batch)s
