-- Give an attempt that is still in flight more time, and count how often it needed some.
-- KEYS[1] saga:<task>:<attempt>  [2] leases
-- ARGV[1] member  [2] lease_until_ms
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 0
end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return redis.call('HINCRBY', KEYS[1], 'extended', 1)
