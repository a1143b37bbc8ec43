-- Be the only one who migrates until this transaction ends.
SELECT pg_advisory_xact_lock(%(lock)s)
