UPDATE account SET quota_ub = %(quota_ub)s WHERE id = %(id)s AND quota_ub <> %(quota_ub)s RETURNING id
