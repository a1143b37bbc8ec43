-- Epochs that a checkpoint of the quorum holds are final.
UPDATE epoch SET final_at = %(now)s
WHERE closed_at IS NOT NULL AND final_at IS NULL AND size <= %(size)s
