UPDATE agent SET suspended = %(suspended)s WHERE id = %(id)s RETURNING id
