-- Witnesses: what one says of the log, apart from the words; a role that reads the log alone (row M22) --

ALTER TABLE log_witness ADD COLUMN accuses boolean NOT NULL DEFAULT false;

ALTER TABLE token
    DROP CONSTRAINT token_role_check,
    ADD CONSTRAINT token_role_check CHECK
        (role IN ('client', 'agent', 'operator', 'approver', 'viewer', 'replica'));

-- What a failure did to its agent may be unknown: then nothing is said of it, instead of nothing done.
ALTER TABLE attempt
    DROP CONSTRAINT attempt_check,
    ADD CONSTRAINT attempt_check CHECK (num_nulls(f_before, f_after, s_before, s_after)
        = ANY (CASE state WHEN 'ABORTED' THEN ARRAY[0, 4] ELSE ARRAY[4] END));

-- What is no settlement is counted for monitors, and closed epochs that are not final yet are looked for
-- every two seconds: neither may grow with what there ever was.
CREATE INDEX ledger_transaction_other ON ledger_transaction (id) WHERE kind <> 'settle';
CREATE INDEX epoch_not_final ON epoch (size) WHERE closed_at IS NOT NULL AND final_at IS NULL;
