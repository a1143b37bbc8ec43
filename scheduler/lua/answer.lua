-- Keep the reply of a call with its attempt, once; from now on its lease is that of a step.
-- KEYS[1] saga:<task>:<attempt>  [2] leases
-- ARGV[1] member  [2] reply  [3] now_ms  [4] the longest lease between two steps, in ms
local saga = redis.call('HMGET', KEYS[1], 'state', 'reply', 'call_ms')
if saga[1] ~= 'EXECUTING' or saga[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'reply', ARGV[2])
redis.call('HDEL', KEYS[1], 'extended')
local lease_ms = math.min(tonumber(saga[3]), tonumber(ARGV[4]))
redis.call('ZADD', KEYS[2], string.format('%.0f', tonumber(ARGV[3]) + lease_ms), ARGV[1])
return 1
