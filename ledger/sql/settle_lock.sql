-- Be the only one who settles until this transaction ends.
SELECT pg_advisory_xact_lock(%(lock)s)
