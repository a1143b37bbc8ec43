-- End one attempt: capacity and credit delta return, the saga is forgotten. Twice is once.
-- KEYS[1] pool:<agent>  [2] saga:<task>:<attempt>  [3] credit:<account>  [4] leases
-- ARGV[1] member  [2] give_back_mt  [3] minus the cost_ub  [4] settled_ub (0 when aborted)
--     [5] of a subtask its parent's saga:<task>:<attempt>, else ''
redis.call('ZREM', KEYS[4], ARGV[1])
local saga = redis.call('HMGET', KEYS[2], 'caller', 'window_ms', 'state')
if redis.call('DEL', KEYS[2]) == 0 then
  return 0
end
-- What was not paid is in the parent's budget again, while there is one.
if ARGV[5] ~= '' and ARGV[4] == '0' and redis.call('EXISTS', ARGV[5]) == 1 then
  redis.call('HINCRBY', ARGV[5], 'outsourced_ub', ARGV[3])
end
local pool = redis.call('HMGET', KEYS[1], 'y_mt', 'y_max_mt', 'next_available_ms',
  'rest_ms')
if pool[1] then
  local free = math.min(tonumber(pool[2]), tonumber(pool[1]) + tonumber(ARGV[2]))
  redis.call('HSET', KEYS[1], 'y_mt', string.format('%.0f', free))
  redis.call('HINCRBY', KEYS[1], 'in_flight', -1)
  -- What it was refused before is over.
  if pool[4] and saga[3] == 'SUCCEEDED' then
    redis.call('HDEL', KEYS[1], 'rest_ms', 'refused_ms')
  end
end
-- Nobody set out to call the agent: the window that was taken for it is open again.
if saga[2] and not saga[1] and pool[3] == saga[2] then
  redis.call('HSET', KEYS[1], 'next_available_ms', 0)
end
redis.call('HINCRBY', KEYS[3], 'reserved_ub', ARGV[3])
redis.call('HINCRBY', KEYS[3], 'released_ub', ARGV[4])
return 1
