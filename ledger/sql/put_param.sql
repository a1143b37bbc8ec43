INSERT INTO param (name, value) VALUES (%(name)s, CAST(%(value)s AS jsonb))
ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE param.value <> excluded.value
RETURNING name
