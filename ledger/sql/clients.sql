SELECT id FROM client WHERE id = ANY(CAST(%(names)s AS text[]))
