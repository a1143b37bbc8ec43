-- Nobody claims, and nobody gives a lane away, until this transaction ends.
SELECT pg_advisory_xact_lock(%(claim)s)
