-- The fields and values of one attempt, nothing when it is not in flight.
-- KEYS[1] saga:<task>:<attempt>
-- No ARGV.
return redis.call('HGETALL', KEYS[1])
