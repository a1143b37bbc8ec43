-- The keys of the log, the one that signs now first.
SELECT vkey, leaf, at FROM log_key ORDER BY number DESC
