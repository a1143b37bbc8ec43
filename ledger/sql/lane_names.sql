SELECT id FROM lane WHERE id = ANY(CAST(%(names)s AS text[]))
