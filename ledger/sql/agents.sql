SELECT id, spec, suspended FROM agent ORDER BY id
