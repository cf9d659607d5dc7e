-- Whole batches go in and come out as one JSON value: a statement that steps through a thousand rows gives up the
-- interpreter's lock a thousand times, and waits for it as often while the event loop is busy.

-- name: load
-- Calls by id, as one JSON array of arrays in the order of the columns of CallRecord, the number first.
SELECT json_group_array(json_array(
    number, call_id, function_id, function_name, app_id, method, kind, created_at_ms, ended_at_ms,
    inputs, inputs_complete, succeeded, failed, cancelled
))
FROM json_each(:call_ids) AS wanted JOIN calls ON calls.call_id = wanted.value

-- name: last_number
SELECT coalesce(max(number), 0) FROM calls

-- name: update
UPDATE calls SET
    ended_at_ms = json_extract(changed.value, '$[1]'),
    inputs = json_extract(changed.value, '$[2]'),
    inputs_complete = json_extract(changed.value, '$[3]'),
    succeeded = json_extract(changed.value, '$[4]'),
    failed = json_extract(changed.value, '$[5]'),
    cancelled = json_extract(changed.value, '$[6]')
FROM json_each(:calls) AS changed
WHERE calls.number = json_extract(changed.value, '$[0]')

-- name: unfinished
-- Which of these keys have no result; and which of those have their arguments in a file (46 is 'F').
SELECT
    json_group_array(inputs.key),
    json_group_array(inputs.key) FILTER (WHERE hex(substr(inputs.payload, 1, 1)) = '46')
FROM json_each(:keys) AS wanted JOIN inputs ON inputs.key = wanted.value

-- name: finish
DELETE FROM inputs WHERE key IN (SELECT value FROM json_each(:keys))

-- name: failures
UPDATE inputs SET
    user_failures = json_extract(noted.value, '$[1]'), crashes = json_extract(noted.value, '$[2]')
FROM json_each(:failures) AS noted
WHERE inputs.key = json_extract(noted.value, '$[0]')

-- name: inputs
SELECT key, payload, user_failures, crashes FROM inputs WHERE key >= :first AND key < :end ORDER BY key LIMIT :limit

-- name: unfinished_of_call
SELECT json_group_array(key) FROM (SELECT key FROM inputs WHERE key >= :first AND key < :end ORDER BY key)

-- name: terminate
INSERT INTO outputs (key, status, at_ms, input_by_file, payload)
SELECT key, :status, :now_ms, hex(substr(payload, 1, 1)) = '46', x'' FROM inputs WHERE key >= :first AND key < :end

-- name: finish_range
DELETE FROM inputs WHERE key >= :first AND key < :end

-- name: old_outputs
SELECT outputs.key, calls.call_id, outputs.input_by_file, hex(substr(outputs.payload, 1, 1)) = '46'
FROM outputs JOIN calls ON calls.number = outputs.key >> 24
WHERE outputs.status <> 8 AND outputs.at_ms < :before_ms
ORDER BY outputs.at_ms, outputs.key LIMIT :limit

-- name: expire
UPDATE outputs SET status = 8, input_by_file = 0, payload = x''
WHERE key IN (SELECT value FROM json_each(:keys))

-- name: old_calls
SELECT number, call_id FROM calls WHERE ended_at_ms < :before_ms ORDER BY ended_at_ms, number LIMIT :limit

-- name: files
-- Outputs of a call that files belong to.
SELECT key, input_by_file, hex(substr(payload, 1, 1)) = '46' FROM outputs
WHERE key >= :first AND key < :end AND (input_by_file OR hex(substr(payload, 1, 1)) = '46')
ORDER BY key

-- name: forget_outputs
DELETE FROM outputs WHERE key >= :first AND key < :end

-- name: forget_call
DELETE FROM calls WHERE number = :number

-- name: outputs
SELECT key, status, payload FROM outputs WHERE key >= :first AND key < :end ORDER BY key

-- name: statuses
SELECT json_group_array(json_array(key & 16777215, status))
FROM (SELECT key, status FROM outputs WHERE key >= :first AND key < :end ORDER BY key)

-- name: recent
SELECT json_group_array(json_array(
    number, call_id, function_id, function_name, app_id, method, kind, created_at_ms, ended_at_ms,
    inputs, inputs_complete, succeeded, failed, cancelled
))
FROM (SELECT * FROM calls ORDER BY number DESC LIMIT :limit)

-- name: recent_of_app
SELECT json_group_array(json_array(
    number, call_id, function_id, function_name, app_id, method, kind, created_at_ms, ended_at_ms,
    inputs, inputs_complete, succeeded, failed, cancelled
))
FROM (SELECT * FROM calls WHERE app_id = :app_id ORDER BY number DESC LIMIT :limit)

-- name: pending
SELECT key, payload, user_failures, crashes FROM inputs WHERE key > :after ORDER BY key LIMIT :limit

-- name: by_number
SELECT json_group_array(json_array(
    number, call_id, function_id, function_name, app_id, method, kind, created_at_ms, ended_at_ms,
    inputs, inputs_complete, succeeded, failed, cancelled
))
FROM json_each(:numbers) AS wanted JOIN calls ON calls.number = wanted.value
