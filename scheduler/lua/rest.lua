-- An agent said 429: it rests for as long as it asked, and for longer each time in a row.
-- KEYS[1] pool:<agent>
-- ARGV[1] now_ms  [2] how long it asked for, in ms  [3] the first rest, in ms  [4] the longest that
--     it did not ask for  [5] a second word within so long is the same word, in ms
local pool = redis.call('HMGET', KEYS[1], 'next_available_ms', 'rest_ms', 'refused_ms')
if not pool[1] then
  return 0
end
local now, rest = tonumber(ARGV[1]), tonumber(pool[2] or '0')
if not pool[3] or now >= tonumber(pool[3]) + tonumber(ARGV[5]) then
  rest = math.min(tonumber(ARGV[4]), math.max(tonumber(ARGV[3]), 2 * rest))
  redis.call('HSET', KEYS[1], 'rest_ms', string.format('%.0f', rest), 'refused_ms', ARGV[1])
end
-- A later instant that is already set stays.
local opens = now + math.max(rest, tonumber(ARGV[2]))
if tonumber(pool[1]) < opens then
  redis.call('HSET', KEYS[1], 'next_available_ms', string.format('%.0f', opens))
end
return 0
