-- name: get
SELECT value FROM meta WHERE key = :key

-- name: put
INSERT INTO meta (key, value) VALUES (:key, :value)
ON CONFLICT (key) DO UPDATE SET value = excluded.value

-- name: grow
-- One more, for a counter.
INSERT INTO meta (key, value) VALUES (:key, 1)
ON CONFLICT (key) DO UPDATE SET value = value + 1
RETURNING value
