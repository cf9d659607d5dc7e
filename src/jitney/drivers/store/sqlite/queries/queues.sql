-- name: drop
DELETE FROM queue_items WHERE number = ? AND object = ?

-- name: put
INSERT INTO queue_items
    (number, object, expires_at_ms, deliveries, max_deliveries, leased_until_ms, partition, payload)
VALUES
    (:number, :object, :expires_at_ms, :deliveries, :max_deliveries, :leased_until_ms, :partition, :payload)
ON CONFLICT (number) DO UPDATE SET
    expires_at_ms = excluded.expires_at_ms, deliveries = excluded.deliveries,
    max_deliveries = excluded.max_deliveries, leased_until_ms = excluded.leased_until_ms,
    partition = excluded.partition, payload = excluded.payload

-- name: change
UPDATE queue_items
SET
    expires_at_ms = :expires_at_ms, deliveries = :deliveries, max_deliveries = :max_deliveries,
    leased_until_ms = :leased_until_ms, partition = :partition
WHERE number = :number AND object = :object

-- name: load
SELECT
    number, partition, CASE WHEN length(payload) <= :payload_bytes_max THEN payload END, length(payload),
    expires_at_ms, deliveries, max_deliveries, leased_until_ms
FROM queue_items
WHERE object = (SELECT number FROM objects WHERE object_id = :object_id) AND number > :after
ORDER BY number LIMIT :limit

-- name: payload
SELECT payload FROM queue_items WHERE number = ?

-- name: stale
SELECT object_id FROM objects WHERE number IN (SELECT object FROM queue_items WHERE expires_at_ms < :now_ms)
ORDER BY object_id LIMIT :limit
