-- Values are sealed (core.sealing), each with a data key that is wrapped by a key outside of this file.

CREATE TABLE secrets (
    number INTEGER PRIMARY KEY,
    secret_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL, -- '': of an app, and goes with it
    app_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    keys BLOB NOT NULL, -- names of variables, as msgpack
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    used_at_ms INTEGER,
    key_id TEXT NOT NULL, -- of the key that wraps the data key
    data_key BLOB NOT NULL,
    nonce BLOB NOT NULL,
    sealed BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX secrets_by_name ON secrets (name) WHERE name <> '';
CREATE INDEX secrets_of_app ON secrets (app_id, number) WHERE app_id <> '';
CREATE INDEX secrets_by_key ON secrets (key_id, number);

-- That there was a version, and since when. Its values are in `secrets` until the next one replaces them.
CREATE TABLE secret_versions (
    secret_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (secret_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE secret_uses (
    number INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    secret_id TEXT NOT NULL,
    name TEXT NOT NULL,
    action TEXT NOT NULL,
    version INTEGER NOT NULL,
    container_id TEXT NOT NULL,
    entry BLOB NOT NULL -- SecretUse, as msgpack
) STRICT;

CREATE UNIQUE INDEX secret_uses_once ON secret_uses (secret_id, at_ms, action, version, container_id);
CREATE INDEX secret_uses_by_name ON secret_uses (name, number) WHERE name <> '';
CREATE INDEX secret_uses_age ON secret_uses (at_ms);
