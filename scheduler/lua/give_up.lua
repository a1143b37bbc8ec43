-- Take an attempt from whoever held it, unless it has moved on since it was read.
-- KEYS[1] saga:<task>:<attempt>
-- ARGV[1] state read  [2] 1 if it had a reply when read, else 0  [3] verdict
if redis.call('HGET', KEYS[1], 'state') ~= ARGV[1]
    or redis.call('HEXISTS', KEYS[1], 'reply') ~= tonumber(ARGV[2])
    or redis.call('HEXISTS', KEYS[1], 'verdict') == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'state', 'FAILED', 'verdict', ARGV[3])
return 1
