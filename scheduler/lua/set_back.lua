-- Bring a pool whose instants lie in the future back to the present: a clock was ahead.
-- KEYS[1] pool:<agent>
-- ARGV[1] now_ms
for _, field in ipairs({'refilled_at_ms', 'judged_at_ms', 'next_available_ms', 'refused_ms'}) do
  local set = redis.call('HGET', KEYS[1], field)
  if set and tonumber(set) > tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[1], field, ARGV[1])
  end
end
return 0
