-- Entries and items have numbers that grow, which the server gives: what is written is appended, or found by its key.

CREATE TABLE objects (
    number INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice: entries of a deleted object wait for `tidy`
    object_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL, -- '': ephemeral
    created_at_ms INTEGER NOT NULL,
    heartbeat_at_ms INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX objects_by_name ON objects (kind, name) WHERE name <> '';

-- Objects that are gone, and whose entries and items are to go.
CREATE TABLE deleted_objects (
    number INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE dict_entries (
    number INTEGER PRIMARY KEY,
    object INTEGER NOT NULL,
    used_at_ms INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL
) STRICT;

CREATE INDEX dict_entries_of_object ON dict_entries (object, number);

CREATE TABLE queue_items (
    number INTEGER PRIMARY KEY,
    object INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    max_deliveries INTEGER NOT NULL,
    leased_until_ms INTEGER NOT NULL,
    partition BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE INDEX queue_items_of_object ON queue_items (object, number);

-- What was done lately and must not be done twice, with what was answered.
CREATE TABLE object_ops (
    number INTEGER PRIMARY KEY,
    op INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    answer BLOB NOT NULL
) STRICT;
