-- End one attempt: capacity and credit delta return, the saga is forgotten. Twice is once.
-- KEYS[1] pool:<agent>  [2] saga:<task>:<attempt>  [3] credit:<client>  [4] leases
-- ARGV[1] member  [2] give_back_mt  [3] y_max_mt  [4] minus the cost_ub  [5] settled_ub (0 when aborted)
redis.call('ZREM', KEYS[4], ARGV[1])
if redis.call('DEL', KEYS[2]) == 0 then
  return 0
end
local y = redis.call('HGET', KEYS[1], 'y_mt')
if y then
  local free = math.min(tonumber(ARGV[3]), tonumber(y) + tonumber(ARGV[2]))
  redis.call('HSET', KEYS[1], 'y_mt', string.format('%.0f', free))
  redis.call('HINCRBY', KEYS[1], 'in_flight', -1)
end
redis.call('HINCRBY', KEYS[3], 'reserved_ub', ARGV[4])
redis.call('HINCRBY', KEYS[3], 'released_ub', ARGV[5])
return 1
