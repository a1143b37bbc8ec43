-- The named families, or all.
SELECT id, size, deadline_s, max_attempts, spec FROM family
WHERE CAST(%(names)s AS text[]) IS NULL OR id = ANY(CAST(%(names)s AS text[]))
ORDER BY id
