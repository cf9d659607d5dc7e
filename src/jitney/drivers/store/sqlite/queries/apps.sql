-- name: put
INSERT INTO apps (app_id, stopped, record) VALUES (:app_id, :stopped, :record)
ON CONFLICT (app_id) DO UPDATE SET stopped = excluded.stopped, record = excluded.record

-- name: get
SELECT record FROM apps WHERE app_id = :app_id

-- name: recent
SELECT record FROM apps ORDER BY number DESC LIMIT :limit

-- name: recent_alive
SELECT record FROM apps WHERE NOT stopped ORDER BY number DESC LIMIT :limit

-- name: by_name
SELECT apps.record
FROM deployments JOIN apps ON apps.app_id = deployments.app_id
WHERE deployments.name = :name
ORDER BY deployments.version DESC LIMIT 1

-- name: deployment
SELECT record FROM deployments WHERE name = :name AND version = :version

-- name: add_deployment
INSERT INTO deployments (name, version, app_id, record) VALUES (:name, :version, :app_id, :record)

-- name: history
SELECT record FROM deployments WHERE name = :name ORDER BY version DESC LIMIT :limit
