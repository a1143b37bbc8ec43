UPDATE account SET quota_ub = :quota_ub WHERE id = :id AND quota_ub <> :quota_ub RETURNING id
