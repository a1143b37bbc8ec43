-- Create an agent's pool if it does not exist; never touch one that does.
-- KEYS[1] pool:<agent>
-- ARGV[1] y_mt  [2] now_ms  [3] f  [4] s  [5] judged_at_ms  [6] samples  [7] next_available_ms
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('HSET', KEYS[1],
  'y_mt', ARGV[1], 'refilled_at_ms', ARGV[2], 'in_flight', 0, 'last_action_ms', 0,
  'f', ARGV[3], 's', ARGV[4], 'judged_at_ms', ARGV[5], 'samples', ARGV[6], 'version', 0,
  'next_available_ms', ARGV[7])
return 1
