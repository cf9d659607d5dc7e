-- name: head
SELECT number, version, files, size, updated_at_ms FROM volumes WHERE volume_id = :volume_id

-- name: put_head
INSERT INTO volumes (volume_id, version, files, size, updated_at_ms, workspace)
VALUES (:volume_id, :version, :files, :size, :updated_at_ms, :workspace)
ON CONFLICT (volume_id) DO UPDATE SET
    version = excluded.version, files = excluded.files, size = excluded.size, updated_at_ms = excluded.updated_at_ms
RETURNING number

-- name: known
SELECT volume_id FROM volumes ORDER BY volume_id

-- name: delete
DELETE FROM volumes WHERE volume_id = :volume_id

-- name: answer
SELECT answer FROM volume_versions WHERE volume = :volume AND key = :key

-- name: add_version
INSERT INTO volume_versions (volume, version, key, record, answer)
VALUES (:volume, :version, :key, :record, :answer)

-- name: version
SELECT volume_versions.record
FROM volumes JOIN volume_versions ON volume_versions.volume = volumes.number
WHERE volumes.volume_id = :volume_id AND volume_versions.version = :version

-- name: history
SELECT volume_versions.record
FROM volumes JOIN volume_versions ON volume_versions.volume = volumes.number
WHERE volumes.volume_id = :volume_id AND volume_versions.version < :before
ORDER BY volume_versions.version DESC LIMIT :limit

-- name: newest
SELECT number, folder, name, since, until, kind, size, mode, mtime_ns, digest, target
FROM volume_entries
WHERE volume = ? AND folder = ? AND name = ?
ORDER BY since DESC LIMIT 1

-- name: below
-- All of the newest version under a folder. '0' is the character after '/'.
SELECT number, folder, name, since, until, kind, size, mode, mtime_ns, digest, target
FROM volume_entries
WHERE volume = :volume AND until IS NULL AND folder = :folder
UNION ALL
SELECT number, folder, name, since, until, kind, size, mode, mtime_ns, digest, target
FROM volume_entries
WHERE volume = :volume AND until IS NULL AND folder >= :folder || '/' AND folder < :folder || '0'

-- name: end
UPDATE volume_entries SET until = ? WHERE number = ?

-- name: entry
SELECT number, folder, name, since, until, kind, size, mode, mtime_ns, digest, target
FROM volume_entries
WHERE volume = :volume AND folder = :folder AND name = :name
    AND since <= :version AND (until IS NULL OR until > :version)

-- name: in_folder
SELECT number, folder, name, since, until, kind, size, mode, mtime_ns, digest, target
FROM volume_entries
WHERE volume = :volume AND folder = :folder AND name > :name
    AND since <= :version AND (until IS NULL OR until > :version)
ORDER BY name LIMIT :limit

-- name: in_folders
-- What is in the folders from :first to before :last; behind (:folder, :name).
SELECT number, folder, name, since, until, kind, size, mode, mtime_ns, digest, target
FROM volume_entries
WHERE volume = :volume AND folder >= :first AND folder < :last AND (folder, name) > (:folder, :name)
    AND since <= :version AND (until IS NULL OR until > :version)
ORDER BY folder, name LIMIT :limit

-- name: begun
-- Of version :new, and not of :old.
SELECT number, folder, name, since, until, kind, size, mode, mtime_ns, digest, target
FROM volume_entries
WHERE volume = :volume AND since > :old AND since <= :new AND (until IS NULL OR until > :new)
    AND (folder, name) > (:folder, :name)
ORDER BY folder, name LIMIT :limit

-- name: ended
-- Of version :old, and not of :new.
SELECT number, folder, name, since, until, kind, size, mode, mtime_ns, digest, target
FROM volume_entries
WHERE volume = :volume AND until > :old AND until <= :new AND since <= :old
    AND (folder, name) > (:folder, :name)
ORDER BY folder, name LIMIT :limit

-- name: sweep_entries
DELETE FROM volume_entries WHERE number IN (
    SELECT number FROM volume_entries WHERE volume IN (
        SELECT DISTINCT volume FROM volume_versions WHERE volume NOT IN (SELECT number FROM volumes)
    ) LIMIT :limit
)

-- name: prune
DELETE FROM volume_versions WHERE volume = ? AND version = ?

-- name: note_pruned
INSERT INTO volume_pruned (volume) VALUES (?) ON CONFLICT DO NOTHING

-- name: pruned
SELECT volume FROM volume_pruned LIMIT 1

-- name: forget_pruned
DELETE FROM volume_pruned WHERE volume = ?

-- name: sweep_pruned
-- Entries that ended and are of no version that is kept.
DELETE FROM volume_entries WHERE number IN (
    SELECT number FROM volume_entries
    WHERE volume = :volume AND until IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM volume_versions
        WHERE volume_versions.volume = :volume
            AND volume_versions.version >= volume_entries.since AND volume_versions.version < volume_entries.until
    ) LIMIT :limit
)

-- name: retention
SELECT versions, days FROM volume_retention WHERE volume_id = ?

-- name: keep
INSERT INTO volume_retention (volume_id, versions, days) VALUES (:volume_id, :versions, :days)
ON CONFLICT (volume_id) DO UPDATE SET versions = excluded.versions, days = excluded.days

-- name: keep_as_all
DELETE FROM volume_retention WHERE volume_id = ?

-- name: sweep_versions
-- Once nothing is left of their entries.
DELETE FROM volume_versions
WHERE volume NOT IN (SELECT number FROM volumes)
    AND NOT EXISTS (SELECT 1 FROM volume_entries WHERE volume_entries.volume = volume_versions.volume)

-- name: content
SELECT number, size, blocks FROM contents WHERE workspace = ? AND digest = ?

-- name: add_content
INSERT INTO contents (workspace, digest, size, blocks) VALUES (:workspace, :digest, :size, :blocks)
ON CONFLICT DO NOTHING RETURNING number

-- name: add_block
INSERT INTO content_blocks (workspace, block, content, position) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING

-- name: block
SELECT contents.digest, content_blocks.position
FROM content_blocks JOIN contents ON contents.number = content_blocks.content
WHERE content_blocks.workspace = ? AND content_blocks.block = ?

-- name: referenced
SELECT 1 FROM volume_entries JOIN volumes ON volumes.number = volume_entries.volume
WHERE volume_entries.digest = ? AND volume_entries.digest <> x'' AND volumes.workspace = ? LIMIT 1

-- name: forget_blocks
DELETE FROM content_blocks WHERE content = ?

-- name: forget_content
DELETE FROM contents WHERE number = ?
