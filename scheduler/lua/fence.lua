-- The lane has another holder: reservations under an older token are refused from now on.
-- KEYS[1] lane:<lane>
-- ARGV[1] token
if tonumber(redis.call('HGET', KEYS[1], 'token') or '0') < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'token', ARGV[1])
end
return 0
