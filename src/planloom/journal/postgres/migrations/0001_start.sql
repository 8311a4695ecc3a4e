-- The shape of a journal in PostgreSQL: the tables of the SQLite journal, and beside them what several orchestrators
-- need to share its runs. See schema.py for the rules of a migration.

-- Compared byte by byte, as Python does: orchestrators lock rows in the order of these names.
CREATE TABLE runs (
    run_id     text COLLATE "C" PRIMARY KEY,
    plan       text NOT NULL,
    plan_hash  text NOT NULL,
    status     text NOT NULL,
    started_at double precision NOT NULL,
    first_link bytea NOT NULL,
    -- 'engine': a process that holds the run's advisory lock; 'cluster': whoever locks this row.
    driver     text NOT NULL DEFAULT 'engine',
    -- When a run of the cluster has to be looked at again though nothing came in; seconds since the epoch.
    wake_at    double precision
);

CREATE INDEX runs_newest ON runs (started_at, run_id);
CREATE INDEX runs_by_status ON runs (status, started_at, run_id);
CREATE INDEX runs_due ON runs (wake_at) WHERE wake_at IS NOT NULL;

-- Append only.
CREATE TABLE events (
    run_id  text COLLATE "C" NOT NULL,
    seq     bigint NOT NULL,
    cause   bigint NOT NULL,
    kind    text NOT NULL,
    version integer NOT NULL,
    at      double precision NOT NULL,
    body    text NOT NULL,
    link    bytea NOT NULL,
    PRIMARY KEY (run_id, seq)
);

-- An attempt has one outcome, whoever writes it. Which attempt it is of is how the body of both kinds begins.
CREATE UNIQUE INDEX one_outcome ON events (
    run_id, substring(left(body, 4096) from '^[{]"step":"(?:[^"\\]|\\.)*","attempt":[0-9]+,"epoch":[0-9]+')
) WHERE kind IN ('attempt_succeeded', 'attempt_failed');

-- Large values and plans, each once, by the SHA-256 of their UTF-8 text.
CREATE TABLE blobs (
    sha256 text COLLATE "C" PRIMARY KEY,
    size   bigint NOT NULL,
    body   text NOT NULL
);

-- What people left for whoever drives the run. Numbers are never used again: a late `taken` must not hit a newer fact.
CREATE TABLE posted (
    number  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id  text COLLATE "C" NOT NULL REFERENCES runs (run_id),
    kind    text NOT NULL,
    version integer NOT NULL,
    body    text NOT NULL,
    link    bytea NOT NULL
);

CREATE INDEX posted_by_run ON posted (run_id, number);

-- One row per transaction that adds to the journal, so that one whose answer got lost can be looked up; whoever made
-- it takes it out again with the next.
CREATE TABLE commits (
    commit_id uuid PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now()
);

-- The outbox: attempts that are asked for and have not answered.
CREATE TABLE work (
    run_id     text COLLATE "C" NOT NULL REFERENCES runs (run_id),
    step       text NOT NULL,
    attempt    integer NOT NULL,
    epoch      integer NOT NULL,
    token      text NOT NULL,
    capability text NOT NULL,
    place      text NOT NULL,
    body       text NOT NULL,
    send_at    double precision NOT NULL,
    sent_at    double precision,
    claimed_by text,
    stop_at    double precision,
    check_at   double precision NOT NULL,
    PRIMARY KEY (run_id, step, attempt, epoch)
);

CREATE INDEX work_unsent ON work (send_at) WHERE sent_at IS NULL;
CREATE INDEX work_quiet ON work (check_at) WHERE sent_at IS NOT NULL;

-- How far each rate limit is used up: when the next slot is free, in seconds since the epoch.
CREATE TABLE buckets (
    bucket  text PRIMARY KEY,
    next_at double precision NOT NULL
);

-- Submissions that were refused, with what whoever submitted is told.
CREATE TABLE refusals (
    run_id text COLLATE "C" PRIMARY KEY,
    told   text NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);
