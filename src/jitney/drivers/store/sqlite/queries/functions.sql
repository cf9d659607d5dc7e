-- name: get
SELECT app_id, spec FROM functions WHERE function_id = :function_id

-- name: of_app
SELECT function_id, spec FROM functions WHERE app_id = :app_id AND position IS NOT NULL ORDER BY position

-- name: unlisted
SELECT function_id, spec FROM functions WHERE app_id = :app_id AND position IS NULL ORDER BY function_id

-- name: of_other_app
-- A function of this list that belongs to another app already.
SELECT function_id FROM functions
WHERE function_id IN (SELECT value FROM json_each(:function_ids)) AND app_id <> :app_id
LIMIT 1

-- name: unplace
UPDATE functions SET position = NULL WHERE app_id = :app_id AND position IS NOT NULL

-- name: place
INSERT INTO functions (function_id, app_id, position, spec) VALUES (:function_id, :app_id, :position, :spec)
ON CONFLICT (function_id) DO UPDATE SET position = excluded.position, spec = excluded.spec

-- name: put
-- Keeps the position that a publish gave.
INSERT INTO functions (function_id, app_id, position, spec) VALUES (:function_id, :app_id, NULL, :spec)
ON CONFLICT (function_id) DO UPDATE SET spec = excluded.spec
