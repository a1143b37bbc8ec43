-- Complete tiles of a level, one after the other.
INSERT INTO log_tile (level, number, hashes, root)
SELECT %(level)s, %(first)s + t.place - 1, t.hashes, t.root
FROM unnest(CAST(%(hashes)s AS bytea[]), CAST(%(roots)s AS bytea[]))
    WITH ORDINALITY AS t (hashes, root, place)
