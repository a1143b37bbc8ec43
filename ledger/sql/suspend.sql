UPDATE agent SET suspended = :suspended WHERE id = :id RETURNING id
