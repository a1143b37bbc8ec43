INSERT INTO account (id, quota_ub, opened_at) VALUES (%(id)s, %(quota_ub)s, %(now)s)
ON CONFLICT (id) DO NOTHING RETURNING id
