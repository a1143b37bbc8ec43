SELECT task, payload FROM task_body WHERE task = ANY(CAST(%(ids)s AS uuid[]))
