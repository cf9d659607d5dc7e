-- name: put
INSERT INTO containers
    (container_id, app_id, created_at_ms, ready_at_ms, ended_at_ms, inputs_done, busy_ms, record)
VALUES
    (:container_id, :app_id, :created_at_ms, :ready_at_ms, :ended_at_ms, :inputs_done, :busy_ms, :record)
ON CONFLICT (container_id) DO UPDATE SET
    app_id = excluded.app_id, created_at_ms = excluded.created_at_ms, ready_at_ms = excluded.ready_at_ms,
    ended_at_ms = excluded.ended_at_ms, inputs_done = excluded.inputs_done, busy_ms = excluded.busy_ms,
    record = excluded.record

-- name: get
SELECT record FROM containers WHERE container_id = :container_id

-- name: recent
SELECT record FROM containers ORDER BY created_at_ms DESC, container_id DESC LIMIT :limit

-- name: recent_of_app
SELECT record FROM containers WHERE app_id = :app_id ORDER BY created_at_ms DESC, container_id DESC LIMIT :limit

-- name: summary
SELECT
    count(*),
    count(ready_at_ms),
    coalesce(sum(inputs_done), 0),
    coalesce(sum(busy_ms), 0),
    coalesce(sum(max(0, ended_at_ms - ready_at_ms - busy_ms)), 0), -- null, and so left out, where it never got ready
    coalesce(max(0, max(ended_at_ms) - min(created_at_ms)), 0)
FROM containers WHERE app_id = :app_id

-- name: forget
DELETE FROM containers WHERE number IN (
    SELECT number FROM containers WHERE ended_at_ms < :before_ms
    ORDER BY ended_at_ms, container_id LIMIT :limit
)
