-- What clearing asks of every account that is not the system's, by its bytes. Times are cut to the
-- millisecond, as in the log.
SELECT id, balance_ub, quota_ub, CAST(floor(extract(epoch FROM opened_at) * 1000) AS bigint), settled
FROM account WHERE id NOT LIKE 'system:%' ORDER BY id COLLATE "C"
