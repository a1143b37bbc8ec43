-- Take capacity from an agent and credit from a payer for one attempt, or nothing at all.
-- Only adds, subtracts and compares: prices and refills were computed before.
-- KEYS[1] pool:<agent>  [2] saga:<task>:<attempt>  [3] credit:<account>  [4] leases  [5] lane:<lane>
-- ARGV[1] member  [2] now_ms  [3] lease_until_ms  [4] size_mt  [5] y_seen_mt  [6] refill_mt
--     [7] refilled_seen_ms  [8] slots  [9] cooldown_ms  [10] cost_ub  [11] spendable_ub
--     [12] released_seen_ub  [13] the saga's sheet  [14] how long its call may take, in ms
--     [15] the attempt's fencing token  [16] of a subtask its parent's saga:<task>:<attempt>, else ''
--     [17] what all subtasks of that attempt may cost
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 'DUPLICATE'
end
-- The token was read from PostgreSQL: what is known here may only be older, unless the lane has
-- changed hands since. A wiped Redis learns the token again from the first who comes.
local lane = redis.call('HMGET', KEYS[5], 'token', 'gap_ms', 'next_ms')
local token, fence = tonumber(lane[1] or '0'), tonumber(ARGV[15])
if token > fence then
  return 'FENCED'
end
if token < fence then
  redis.call('HSET', KEYS[5], 'token', ARGV[15])
end
-- A lane that was told to slow down starts one attempt at a time, a gap apart.
if lane[2] and tonumber(lane[3]) > tonumber(ARGV[2]) then
  return 'PACED'
end
local pool = redis.call('HMGET', KEYS[1], 'y_mt', 'refilled_at_ms', 'in_flight', 'next_available_ms',
  'y_max_mt')
if not pool[1] then
  return 'MOVED'
end
local now, size = tonumber(ARGV[2]), tonumber(ARGV[4])
local y = tonumber(pool[1])
local refilled_at = pool[2]
-- A clock that is behind must not set the refill back: the same time would refill twice.
if refilled_at == ARGV[7] and now > tonumber(refilled_at) then
  y = math.min(tonumber(pool[5]), y + tonumber(ARGV[6]))
  refilled_at = ARGV[2]
end
if tonumber(pool[4]) > now or tonumber(pool[3]) >= tonumber(ARGV[8]) or y < tonumber(ARGV[5]) then
  return 'MOVED'
end
local credit = redis.call('HMGET', KEYS[3], 'reserved_ub', 'released_ub')
local reserved = tonumber(credit[1] or '0')
-- What was settled since the balance was read is still in the balance that was read.
local settled_since = math.max(0, tonumber(credit[2] or '0') - tonumber(ARGV[12]))
if reserved + settled_since + tonumber(ARGV[10]) > tonumber(ARGV[11]) then
  return 'CREDIT'
end
-- A subtask: its parent's agent still works, and its budget pays for all that was taken from it.
local parent = ARGV[16]
if parent ~= '' then
  local at = redis.call('HMGET', parent, 'state', 'reply', 'outsourced_ub')
  if at[1] ~= 'EXECUTING' or at[2] or tonumber(at[3] or '0') + tonumber(ARGV[10]) > tonumber(ARGV[17])
  then
    return 'BUDGET'
  end
  redis.call('HINCRBY', parent, 'outsourced_ub', ARGV[10])
end
redis.call('HSET', KEYS[1],
  'y_mt', string.format('%.0f', y - size), 'refilled_at_ms', refilled_at, 'last_action_ms', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'in_flight', 1)
-- The agent counts from the call, and nobody knows yet when that will be: until `begin` says, the
-- window stays shut for as long as the attempt may wait. Its pool travels with it for that.
if tonumber(ARGV[9]) > 0 then
  local window = string.format('%.0f', tonumber(ARGV[3]) + tonumber(ARGV[9]))
  redis.call('HSET', KEYS[1], 'next_available_ms', window)
  redis.call('HSET', KEYS[2], 'pool', KEYS[1], 'cooldown_ms', ARGV[9], 'window_ms', window)
end
if lane[2] then
  redis.call('HSET', KEYS[5], 'next_ms', string.format('%.0f', now + tonumber(lane[2])))
end
redis.call('HINCRBY', KEYS[3], 'reserved_ub', ARGV[10])
redis.call('HSET', KEYS[2], 'state', 'RESERVED', 'sheet', ARGV[13], 'call_ms', ARGV[14])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
return 'OK'
