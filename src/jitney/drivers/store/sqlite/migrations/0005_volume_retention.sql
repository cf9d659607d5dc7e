-- Contents belong to a workspace: so do references to them, or one would see by what stays that another has it too.
ALTER TABLE volumes ADD COLUMN workspace TEXT NOT NULL DEFAULT 'main';

-- Which versions are kept, where that is not what the server says.
CREATE TABLE volume_retention (
    volume_id TEXT PRIMARY KEY,
    versions INTEGER NOT NULL,
    days INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Volumes of which versions were dropped, and perhaps not yet the entries that only those had.
CREATE TABLE volume_pruned (volume INTEGER PRIMARY KEY) STRICT;
