-- Key of an input and of its result: call number << 24 | index. Integer keys that grow make appends of what would be
-- random inserts: five to ten times as many a second. A call has its number from the order in which it came.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE apps (
    number INTEGER PRIMARY KEY,
    app_id TEXT NOT NULL UNIQUE,
    stopped INTEGER NOT NULL,
    record BLOB NOT NULL -- AppRecord, as msgpack
) STRICT;

CREATE INDEX apps_alive ON apps (number) WHERE NOT stopped;

CREATE TABLE deployments (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    app_id TEXT NOT NULL,
    record BLOB NOT NULL, -- DeploymentRecord, as msgpack
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE functions (
    number INTEGER PRIMARY KEY,
    function_id TEXT NOT NULL UNIQUE,
    app_id TEXT NOT NULL,
    position INTEGER, -- in the app's last publish; null: bound, or of an earlier one
    spec BLOB NOT NULL -- FunctionSpec, as msgpack
) STRICT;

CREATE INDEX functions_of_app ON functions (app_id, position) WHERE position IS NOT NULL;

CREATE TABLE calls (
    number INTEGER PRIMARY KEY,
    call_id TEXT NOT NULL UNIQUE,
    function_id TEXT NOT NULL,
    function_name TEXT NOT NULL,
    app_id TEXT NOT NULL,
    method TEXT NOT NULL,
    kind TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    inputs INTEGER NOT NULL,
    inputs_complete INTEGER NOT NULL,
    succeeded INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL
) STRICT;

CREATE INDEX calls_of_app ON calls (app_id, number);
CREATE INDEX calls_ended ON calls (ended_at_ms) WHERE ended_at_ms IS NOT NULL;

-- An input is here until it has a result; then it is in outputs.
CREATE TABLE inputs (
    key INTEGER PRIMARY KEY,
    user_failures INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE TABLE outputs (
    key INTEGER PRIMARY KEY,
    status INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    input_by_file INTEGER NOT NULL, -- its arguments were in a file, which goes when this expires
    payload BLOB NOT NULL
) STRICT;

CREATE INDEX outputs_age ON outputs (at_ms) WHERE status <> 8;

CREATE TABLE containers (
    number INTEGER PRIMARY KEY,
    container_id TEXT NOT NULL UNIQUE,
    app_id TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    ready_at_ms INTEGER,
    ended_at_ms INTEGER,
    inputs_done INTEGER NOT NULL,
    busy_ms INTEGER NOT NULL,
    record BLOB NOT NULL -- ContainerRecord, as msgpack
) STRICT;

CREATE INDEX containers_of_app ON containers (app_id, created_at_ms, container_id);
CREATE INDEX containers_by_time ON containers (created_at_ms, container_id);
CREATE INDEX containers_ended ON containers (ended_at_ms) WHERE ended_at_ms IS NOT NULL;
