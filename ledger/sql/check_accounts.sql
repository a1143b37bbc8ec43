-- Every account. Times are cut to the millisecond, as in the log.
SELECT id, quota_ub, balance_ub, CAST(floor(extract(epoch FROM opened_at) * 1000) AS bigint), settled
FROM account ORDER BY id
