-- Keep the reply of a call with its attempt, once; from now on its lease is that of a step.
-- KEYS[1] saga:<task>:<attempt>  [2] leases
-- ARGV[1] member  [2] reply  [3] now_ms  [4] the longest lease between two steps, in ms
--     [5] how long the agent asked to be left alone, in ms; '' when it did not say
--     [6] how long ago the agent had the call in hand at the latest, in ms
local saga = redis.call('HMGET', KEYS[1], 'state', 'reply', 'call_ms', 'window_ms', 'pool',
  'cooldown_ms')
if saga[1] ~= 'EXECUTING' or saga[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'reply', ARGV[2])
redis.call('HDEL', KEYS[1], 'extended')
local lease_ms = math.min(tonumber(saga[3]), tonumber(ARGV[4]))
redis.call('ZADD', KEYS[2], string.format('%.0f', tonumber(ARGV[3]) + lease_ms), ARGV[1])
-- The window opens a cooldown after the agent had the call in hand. That may be long after `begin`:
-- a worker that has just started, or is busy, sends late. Whoever says itself when it opens knows
-- better.
if saga[4] and redis.call('HGET', saga[5], 'next_available_ms') == saga[4] then
  local window = tonumber(ARGV[3]) - tonumber(ARGV[6]) + tonumber(saga[6])
  if ARGV[5] ~= '' then
    window = tonumber(ARGV[3]) + tonumber(ARGV[5])
  end
  redis.call('HSET', saga[5], 'next_available_ms', string.format('%.0f', window))
end
return 1
