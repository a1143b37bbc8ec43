-- Somebody in the lane was told to slow down: attempts start further apart, all over the lane.
-- KEYS[1] lane:<lane>
-- ARGV[1] now_ms  [2] the first gap, in ms  [3] the longest  [4] a second word within so long is the
--     same word, in ms
local lane = redis.call('HMGET', KEYS[1], 'gap_ms', 'slowed_ms')
local now = tonumber(ARGV[1])
if lane[2] and now < tonumber(lane[2]) + tonumber(ARGV[4]) then
  return 0
end
local gap = math.min(tonumber(ARGV[3]), math.max(tonumber(ARGV[2]), 2 * tonumber(lane[1] or '0')))
redis.call('HSET', KEYS[1], 'gap_ms', string.format('%.0f', gap), 'slowed_ms', ARGV[1],
  'next_ms', string.format('%.0f', now + gap))
return 1
