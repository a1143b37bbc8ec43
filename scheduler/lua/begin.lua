-- RESERVED to EXECUTING, for the one caller that comes first.
-- KEYS[1] saga:<task>:<attempt>
-- ARGV[1] now_ms
-- Returns the saga's fields and values, nothing when somebody else has begun or it is gone.
if redis.call('HGET', KEYS[1], 'state') ~= 'RESERVED' then
  return {}
end
redis.call('HSET', KEYS[1], 'state', 'EXECUTING', 'began_ms', ARGV[1])
return redis.call('HGETALL', KEYS[1])
