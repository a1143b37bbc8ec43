-- Slots that were not recorded yet, each once, whoever else records it. Later ones need not look at
-- them again.
WITH slots AS (
    SELECT * FROM unnest(
        CAST(%(jobs)s AS text[]), CAST(%(slots)s AS timestamptz[]), CAST(%(states)s AS text[]),
        CAST(%(reasons)s AS text[]), CAST(%(counts)s AS integer[])
    ) AS s (job, slot, state, reason, slots)
), recorded AS (
    INSERT INTO cron_run (job, slot, lane, state, reason, slots, fired_at, ended_at)
    SELECT s.job, s.slot, %(lane)s, s.state, s.reason, s.slots, %(now)s,
           CASE WHEN s.state <> 'fired' THEN CAST(%(now)s AS timestamptz) END
    FROM slots s
    ON CONFLICT (job, slot) DO NOTHING
)
UPDATE cron_job j SET seen = greatest(j.seen, s.seen)
FROM (SELECT job, max(slot) AS seen FROM slots GROUP BY job) s
WHERE j.id = s.job
