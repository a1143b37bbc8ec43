INSERT INTO account (id, quota_ub, opened_at) VALUES (:id, :quota_ub, :now)
ON CONFLICT (id) DO NOTHING RETURNING id
