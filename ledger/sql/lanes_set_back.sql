-- Leases taken by a clock that was ahead end as long from now as they were to last then.
UPDATE lane SET until = CAST(%(now)s AS timestamptz) + (until - since)
WHERE until > since
  AND since > CAST(%(now)s AS timestamptz) + make_interval(secs => %(ahead_s)s)
RETURNING id
