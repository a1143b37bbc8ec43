-- Let an agent rest until an instant; a later instant that is already set stays.
-- KEYS[1] pool:<agent>
-- ARGV[1] next_available_ms
local set = redis.call('HGET', KEYS[1], 'next_available_ms')
if set and tonumber(set) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'next_available_ms', ARGV[1])
end
return 0
