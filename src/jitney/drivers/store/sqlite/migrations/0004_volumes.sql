-- An entry is of the versions since <= v < until; null: of the newest too. A commit ends rows and begins others, as many
-- as it changes. `volume` is volumes.number, which is never given again: rows of deleted volumes are dropped later.

CREATE TABLE volumes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    volume_id TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    files INTEGER NOT NULL,
    size INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE volume_versions (
    volume INTEGER NOT NULL,
    version INTEGER NOT NULL,
    key TEXT NOT NULL, -- of the author's choice: the same commit sent again; '' is none
    record BLOB NOT NULL, -- Version, as msgpack
    answer BLOB NOT NULL, -- Committed, as msgpack
    PRIMARY KEY (volume, version)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX volume_commits ON volume_versions (volume, key) WHERE key <> '';

CREATE TABLE volume_entries (
    number INTEGER PRIMARY KEY,
    volume INTEGER NOT NULL,
    folder TEXT NOT NULL,
    name TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER,
    kind TEXT NOT NULL,
    size INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    digest BLOB NOT NULL, -- of a file's content; empty for others
    target TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX volume_paths ON volume_entries (volume, folder, name, since);
CREATE INDEX volume_begun ON volume_entries (volume, since);
CREATE INDEX volume_ended ON volume_entries (volume, until) WHERE until IS NOT NULL;
CREATE INDEX volume_references ON volume_entries (digest) WHERE digest <> x'';

CREATE TABLE contents (
    number INTEGER PRIMARY KEY,
    workspace TEXT NOT NULL,
    digest BLOB NOT NULL,
    size INTEGER NOT NULL,
    blocks BLOB NOT NULL, -- SHA-256 of each, one after the other
    UNIQUE (workspace, digest)
) STRICT;

-- Where whole blocks are, for files that share them.
CREATE TABLE content_blocks (
    workspace TEXT NOT NULL,
    block BLOB NOT NULL,
    content INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (workspace, block)
) STRICT, WITHOUT ROWID;

CREATE INDEX content_blocks_of ON content_blocks (content);
