-- Capacity and judgement of one agent, in the order in which they are read.
-- KEYS[1] pool:<agent>
-- No ARGV.
return redis.call('HMGET', KEYS[1],
  'y_mt', 'refilled_at_ms', 'in_flight', 'next_available_ms', 'last_action_ms', 'y_max_mt',
  'f', 's', 'judged_at_ms', 'samples', 'version')
