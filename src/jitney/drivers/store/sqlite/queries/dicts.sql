-- name: clear
DELETE FROM dict_entries WHERE object = :object AND number < :before

-- name: drop
DELETE FROM dict_entries WHERE number = ? AND object = ?

-- name: put
INSERT INTO dict_entries (number, object, used_at_ms, key, value) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (number) DO UPDATE SET used_at_ms = excluded.used_at_ms, value = excluded.value

-- name: use
UPDATE dict_entries SET used_at_ms = ? WHERE number = ? AND object = ?

-- name: load
SELECT number, key, CASE WHEN length(value) <= :value_bytes_max THEN value END, length(value), used_at_ms
FROM dict_entries
WHERE object = (SELECT number FROM objects WHERE object_id = :object_id) AND number > :after
ORDER BY number LIMIT :limit

-- name: value
SELECT value FROM dict_entries WHERE number = ?

-- name: by_file
-- References are short, and begin with an F.
SELECT value FROM dict_entries WHERE length(value) < 512 AND substr(value, 1, 1) = x'46' ORDER BY number

-- name: stale
SELECT object_id FROM objects WHERE number IN (SELECT object FROM dict_entries WHERE used_at_ms < :before_ms)
ORDER BY object_id LIMIT :limit
