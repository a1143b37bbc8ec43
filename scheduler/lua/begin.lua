-- RESERVED to EXECUTING, for the one caller that comes first, for as long as the call may take. The
-- caller may ask again: the answer that told it so may have been lost.
-- KEYS[1] saga:<task>:<attempt>  [2] leases
-- ARGV[1] member  [2] caller  [3] now_ms  [4] the longest that a request is on its way, in ms
-- Returns the saga's fields and values, nothing when somebody else has begun or it is gone.
local saga = redis.call('HMGET', KEYS[1], 'state', 'caller', 'reply', 'call_ms', 'window_ms',
  'pool', 'cooldown_ms')
local again = saga[1] == 'EXECUTING' and saga[2] == ARGV[2] and not saga[3]
if saga[1] ~= 'RESERVED' and not again then
  return {}
end
redis.call('HSET', KEYS[1], 'state', 'EXECUTING', 'caller', ARGV[2])
redis.call('HDEL', KEYS[1], 'extended')
redis.call('ZADD', KEYS[2], string.format('%.0f', tonumber(ARGV[3]) + tonumber(saga[4])), ARGV[1])
-- The cooldown counts from now on, unless the agent was told to rest meanwhile.
if saga[5] and redis.call('HGET', saga[6], 'next_available_ms') == saga[5] then
  local window = string.format('%.0f', tonumber(ARGV[3]) + tonumber(ARGV[4]) + tonumber(saga[7]))
  redis.call('HSET', saga[6], 'next_available_ms', window)
  redis.call('HSET', KEYS[1], 'window_ms', window)
end
return redis.call('HGETALL', KEYS[1])
