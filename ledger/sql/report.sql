-- Until the transaction ends, plan for reading a lot (see BY_INDEX).
SELECT set_config(name, value, true) FROM (VALUES
    ('plan_cache_mode', 'force_custom_plan'), ('enable_seqscan', 'on'),
    ('enable_hashjoin', 'on'), ('enable_mergejoin', 'on')) AS s (name, value)
