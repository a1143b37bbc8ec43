-- Create an agent's pool, or give one that exists the size that is now configured.
-- What is taken stays taken: a larger pool has more free, a smaller one less, perhaps below zero.
-- KEYS[1] pool:<agent>
-- ARGV[1] y_max_mt  [2] now_ms  [3] f  [4] s  [5] judged_at_ms  [6] samples  [7] next_available_ms
local y_max = redis.call('HGET', KEYS[1], 'y_max_mt')
if y_max then
  redis.call('HINCRBY', KEYS[1], 'y_mt', string.format('%.0f', tonumber(ARGV[1]) - tonumber(y_max)))
  redis.call('HSET', KEYS[1], 'y_max_mt', ARGV[1])
  return 0
end
redis.call('HSET', KEYS[1],
  'y_mt', ARGV[1], 'y_max_mt', ARGV[1], 'refilled_at_ms', ARGV[2], 'in_flight', 0,
  'last_action_ms', 0, 'f', ARGV[3], 's', ARGV[4], 'judged_at_ms', ARGV[5], 'samples', ARGV[6],
  'version', 0, 'next_available_ms', ARGV[7])
return 1
