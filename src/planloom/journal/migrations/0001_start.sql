-- The shape of a journal. Postgres has the same tables; see journal/schema.py for the rules of a migration.

-- One row per run, for lists; its status changes in the transaction of the event that changes it. The last event's
-- number and time are looked up when somebody asks: a row that changes with every commit costs a page per commit.
CREATE TABLE runs (
    run_id     TEXT PRIMARY KEY NOT NULL,
    plan       TEXT NOT NULL,
    plan_hash  TEXT NOT NULL,
    status     TEXT NOT NULL,
    started_at REAL NOT NULL
) WITHOUT ROWID;

CREATE INDEX runs_newest ON runs (started_at);

CREATE INDEX runs_by_status ON runs (status, started_at);

-- Append only. Not WITHOUT ROWID: with bodies of a kilobyte that measured five times slower.
CREATE TABLE events (
    run_id  TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    cause   INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    version INTEGER NOT NULL,
    at      REAL NOT NULL,
    body    TEXT NOT NULL,
    PRIMARY KEY (run_id, seq)
);

-- Large values and plans, each once, by the SHA-256 of their UTF-8 text.
CREATE TABLE blobs (
    sha256 TEXT PRIMARY KEY NOT NULL,
    size   INTEGER NOT NULL,
    body   TEXT NOT NULL
);

-- What people left for whoever drives the run. Numbers are never used again: a late `taken` must not hit a newer fact.
CREATE TABLE posted (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id  TEXT NOT NULL REFERENCES runs (run_id),
    kind    TEXT NOT NULL,
    version INTEGER NOT NULL,
    body    TEXT NOT NULL
);

CREATE INDEX posted_by_run ON posted (run_id, number);
