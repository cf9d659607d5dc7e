-- name: add
INSERT INTO objects (object_id, kind, name, created_at_ms, heartbeat_at_ms)
VALUES (:object_id, :kind, :name, :created_at_ms, :heartbeat_at_ms)

-- name: by_name
SELECT object_id, kind, name, created_at_ms, heartbeat_at_ms FROM objects
WHERE kind = :kind AND name = :name AND name <> ''

-- name: get
SELECT object_id, kind, name, created_at_ms, heartbeat_at_ms FROM objects WHERE object_id = :object_id

-- name: all
SELECT object_id, kind, name, created_at_ms, heartbeat_at_ms FROM objects ORDER BY number

-- name: number
SELECT number FROM objects WHERE object_id = :object_id

-- name: heartbeat
UPDATE objects SET heartbeat_at_ms = max(heartbeat_at_ms, :now_ms) WHERE object_id = :object_id AND name = ''

-- name: rename
UPDATE objects SET name = :name WHERE object_id = :object_id

-- name: doom
INSERT INTO deleted_objects (number) SELECT number FROM objects WHERE object_id = :object_id

-- name: delete
DELETE FROM objects WHERE object_id = :object_id

-- name: doomed
SELECT number FROM deleted_objects ORDER BY number

-- name: drop_entries
DELETE FROM dict_entries WHERE number IN (
    SELECT number FROM dict_entries WHERE object = :object ORDER BY number LIMIT :limit
)

-- name: drop_items
DELETE FROM queue_items WHERE number IN (
    SELECT number FROM queue_items WHERE object = :object ORDER BY number LIMIT :limit
)

-- name: forget_deleted
DELETE FROM deleted_objects WHERE number = :object

-- name: add_op
INSERT INTO object_ops (number, op, at_ms, answer) VALUES (?, ?, ?, ?) ON CONFLICT (number) DO NOTHING

-- name: ops
SELECT number, op, at_ms, answer FROM object_ops ORDER BY number

-- name: forget_ops
DELETE FROM object_ops WHERE at_ms < :before_ms
