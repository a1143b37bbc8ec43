-- Starts of runs in this lane come one after the other.
SELECT id FROM lane WHERE id = %(lane)s FOR NO KEY UPDATE
