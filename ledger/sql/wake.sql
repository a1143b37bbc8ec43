-- Let tasks that wait for credit or for an agent look again: something about either has changed.
UPDATE task SET ready_at = now()
WHERE state = 'INIT' AND wait IN ('credit', 'no_agent') AND ready_at > now()
