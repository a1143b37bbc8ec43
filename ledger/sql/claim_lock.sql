-- Try to be the only one who claims until this transaction ends; whoever comes second gets nothing
-- and looks again soon. A statement of its own, because the claim must see what the last holder has
-- committed; it finds the answer in the setting.
SELECT set_config('clearlane.claiming', CAST(pg_try_advisory_xact_lock(%(lock)s) AS text), true)
