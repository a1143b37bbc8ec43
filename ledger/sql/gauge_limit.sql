-- No statement of this transaction may run longer: who only looks must not hold up who works.
SELECT set_config('statement_timeout', CAST(%(limit_ms)s AS text), true)
