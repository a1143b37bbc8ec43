-- Whose a lane is now; no count of what is in flight, which costs more.
SELECT mode, principal FROM lane WHERE id = %(lane)s
