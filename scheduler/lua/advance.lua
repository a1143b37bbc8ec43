-- Move one attempt from a state to the next and keep one fact with it, once.
-- KEYS[1] saga:<task>:<attempt>
-- ARGV[1] from  [2] to  [3] field  [4] value
if redis.call('HGET', KEYS[1], 'state') ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], ARGV[3]) == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'state', ARGV[2], ARGV[3], ARGV[4])
return 1
