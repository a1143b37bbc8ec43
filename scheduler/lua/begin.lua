-- RESERVED to EXECUTING, for the one caller that comes first. It may ask again: the answer that
-- told it so may have been lost.
-- KEYS[1] saga:<task>:<attempt>
-- ARGV[1] caller
-- Returns the saga's fields and values, nothing when somebody else has begun or it is gone.
local saga = redis.call('HMGET', KEYS[1], 'state', 'caller', 'reply')
local again = saga[1] == 'EXECUTING' and saga[2] == ARGV[1] and not saga[3]
if saga[1] ~= 'RESERVED' and not again then
  return {}
end
redis.call('HSET', KEYS[1], 'state', 'EXECUTING', 'caller', ARGV[1])
return redis.call('HGETALL', KEYS[1])
