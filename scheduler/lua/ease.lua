-- A lane that heard nothing for a while starts attempts closer together, and at last freely.
-- KEYS[1] lane:<lane>
-- ARGV[1] now_ms  [2] the first gap, in ms  [3] how long it has to hear nothing, in ms
-- Returns the gap that is left and the instant before which nothing starts.
local lane = redis.call('HMGET', KEYS[1], 'gap_ms', 'slowed_ms', 'next_ms')
if not lane[1] then
  return {0, 0}
end
local now, gap = tonumber(ARGV[1]), tonumber(lane[1])
if now < tonumber(lane[2]) + tonumber(ARGV[3]) then
  return {gap, tonumber(lane[3])}
end
gap = math.floor(gap / 2)
if gap < tonumber(ARGV[2]) then
  redis.call('HDEL', KEYS[1], 'gap_ms', 'slowed_ms', 'next_ms')
  return {0, 0}
end
redis.call('HSET', KEYS[1], 'gap_ms', string.format('%.0f', gap), 'slowed_ms', ARGV[1])
return {gap, tonumber(lane[3])}
