-- name: by_ids
SELECT secret_id, name, app_id, version, keys, created_at_ms, updated_at_ms, used_at_ms, key_id, data_key, nonce, sealed
FROM secrets WHERE secret_id IN (SELECT value FROM json_each(:ids)) ORDER BY number

-- name: by_names
SELECT secret_id, name, app_id, version, keys, created_at_ms, updated_at_ms, used_at_ms, key_id, data_key, nonce, sealed
FROM secrets WHERE name <> '' AND name IN (SELECT value FROM json_each(:names)) ORDER BY number

-- name: of_app
SELECT secret_id, name, app_id, version, keys, created_at_ms, updated_at_ms, used_at_ms, key_id, data_key, nonce, sealed
FROM secrets WHERE app_id <> '' AND app_id = :app_id ORDER BY number

-- name: wrapped_by_others
SELECT secret_id, name, app_id, version, keys, created_at_ms, updated_at_ms, used_at_ms, key_id, data_key, nonce, sealed
FROM secrets WHERE key_id <> :key_id ORDER BY number LIMIT :limit

-- name: recent
SELECT secret_id, name, app_id, version, keys, created_at_ms, updated_at_ms, used_at_ms, key_id, data_key, nonce, sealed
FROM secrets WHERE name <> '' AND created_at_ms < :before_ms ORDER BY number DESC LIMIT :limit

-- name: names
SELECT name FROM secrets WHERE name <> '' ORDER BY name LIMIT :limit

-- name: key_ids
SELECT DISTINCT key_id FROM secrets ORDER BY key_id

-- name: create
INSERT INTO secrets
    (secret_id, name, app_id, version, keys, created_at_ms, updated_at_ms, used_at_ms, key_id, data_key, nonce, sealed)
VALUES
    (:secret_id, :name, :app_id, :version, :keys, :created_at_ms, :updated_at_ms, :used_at_ms, :key_id, :data_key,
     :nonce, :sealed)

-- name: update
UPDATE secrets
SET name = :name, version = :version, keys = :keys, updated_at_ms = :updated_at_ms, key_id = :key_id, data_key = :data_key,
    nonce = :nonce, sealed = :sealed
WHERE secret_id = :secret_id

-- name: rewrap
UPDATE secrets SET key_id = :key_id, data_key = :data_key
WHERE secret_id = :secret_id AND version = :version AND key_id = :before

-- name: note_use
UPDATE secrets SET used_at_ms = max(coalesce(used_at_ms, :at_ms), :at_ms) WHERE secret_id = :secret_id

-- name: delete
DELETE FROM secrets WHERE secret_id = :secret_id

-- name: ids_of_app
SELECT secret_id FROM secrets WHERE app_id <> '' AND app_id = :app_id

-- name: expired
SELECT secret_id FROM secrets
WHERE app_id <> '' AND created_at_ms < :before_ms
    AND NOT EXISTS (SELECT 1 FROM apps WHERE apps.app_id = secrets.app_id AND NOT apps.stopped)
ORDER BY number LIMIT :limit

-- name: add_version
INSERT OR IGNORE INTO secret_versions (secret_id, version, at_ms) VALUES (:secret_id, :version, :at_ms)

-- name: versions
SELECT version, at_ms FROM secret_versions WHERE secret_id = :secret_id ORDER BY version DESC LIMIT :limit

-- name: delete_versions
DELETE FROM secret_versions WHERE secret_id = :secret_id

-- name: add_use
INSERT OR IGNORE INTO secret_uses (at_ms, secret_id, name, action, version, container_id, entry)
VALUES (:at_ms, :secret_id, :name, :action, :version, :container_id, :entry)

-- name: uses
SELECT entry FROM secret_uses ORDER BY number DESC LIMIT :limit

-- name: uses_of_name
SELECT entry FROM secret_uses WHERE name <> '' AND name = :name ORDER BY number DESC LIMIT :limit

-- name: uses_of_id
SELECT entry FROM secret_uses WHERE secret_id = :secret_id ORDER BY number DESC LIMIT :limit

-- name: forget
DELETE FROM secret_uses
WHERE number IN (SELECT number FROM secret_uses WHERE at_ms < :before_ms ORDER BY number LIMIT :limit)
