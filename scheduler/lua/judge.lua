-- Store a new judgement of an agent if nobody has stored one since it was read.
-- KEYS[1] pool:<agent>
-- ARGV[1] version read  [2] version to store  [3] f  [4] s  [5] judged_at_ms  [6] samples
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1],
  'version', ARGV[2], 'f', ARGV[3], 's', ARGV[4], 'judged_at_ms', ARGV[5], 'samples', ARGV[6])
return 1
