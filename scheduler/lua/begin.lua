-- RESERVED to EXECUTING, for the one caller that comes first, for as long as the call may take. The
-- caller may ask again: the answer that told it so may have been lost.
-- KEYS[1] saga:<task>:<attempt>  [2] leases
-- ARGV[1] member  [2] caller  [3] now_ms
-- Returns the saga's fields and values, nothing when somebody else has begun or it is gone.
local saga = redis.call('HMGET', KEYS[1], 'state', 'caller', 'reply', 'call_ms')
local again = saga[1] == 'EXECUTING' and saga[2] == ARGV[2] and not saga[3]
if saga[1] ~= 'RESERVED' and not again then
  return {}
end
redis.call('HSET', KEYS[1], 'state', 'EXECUTING', 'caller', ARGV[2])
redis.call('HDEL', KEYS[1], 'extended')
redis.call('ZADD', KEYS[2], string.format('%.0f', tonumber(ARGV[3]) + tonumber(saga[4])), ARGV[1])
return redis.call('HGETALL', KEYS[1])
