-- Nobody claims and nobody settles until this transaction ends: what is in flight can be counted.
SELECT pg_advisory_xact_lock(%(claim)s) AS claim, pg_advisory_xact_lock(%(settle)s) AS settle
