-- Where the payload stands matters: after the small columns, because SQLite reads a row from its
-- beginning and a long payload continues on other pages.
--
-- Instants are microseconds since 1970 in UTC.
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,               -- the order in which the store accepted the jobs
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'processing', 'completed', 'cancelled', 'dead')),
    due INTEGER NOT NULL,                  -- 1: pending, and its run_at has been seen to have come
    run_at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    version INTEGER NOT NULL,
    crash_count INTEGER NOT NULL,
    node TEXT,
    lease_until INTEGER,
    timeout_seconds REAL,
    deadline_at INTEGER,
    unique_key TEXT,
    parent_id TEXT,
    root_id TEXT NOT NULL,
    schedule TEXT,
    traceparent TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    cancel_requested_at INTEGER,
    reason TEXT,
    tags TEXT,                             -- a JSON array; NULL when there are none
    payload BLOB NOT NULL,
    progress BLOB,
    result BLOB
) STRICT;

-- Claims. A lane is one type in one queue; see claimable.sql. Only due jobs are in this index, so
-- millions of delayed jobs with a better priority cost a claim nothing.
CREATE INDEX jobs_due ON jobs (queue, type, priority, run_at) WHERE due = 1;

-- When the next job of a lane comes due (due = 0), and since when the first one waits (due = 1).
CREATE INDEX jobs_waiting ON jobs (queue, type, due, run_at) WHERE status = 'pending';

-- Leases that have expired. Short: it holds what all nodes are working on now.
CREATE INDEX jobs_leases ON jobs (lease_until) WHERE status = 'processing';

-- At most one live job with a unique_key.
CREATE UNIQUE INDEX jobs_unique_key ON jobs (unique_key)
WHERE unique_key IS NOT NULL AND status IN ('pending', 'processing');

-- Pruning.
CREATE INDEX jobs_finished ON jobs (status, finished_at) WHERE finished_at IS NOT NULL;

-- Lists, newest first. Every index of SQLite ends with the rowid, which is `seq`.
CREATE INDEX jobs_by_status ON jobs (status);
CREATE INDEX jobs_by_type ON jobs (type);
CREATE INDEX jobs_by_queue ON jobs (queue);

-- For lists by tag. The job's own row has its tags, too: to show them, and to delete these.
CREATE TABLE job_tags (
    tag TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (tag, seq)
) STRICT, WITHOUT ROWID;

-- The ledger: one row for each attempt that has ended. A claim's epoch is never given twice.
CREATE TABLE attempts (
    seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    node TEXT NOT NULL,
    worker INTEGER,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    error TEXT,
    PRIMARY KEY (seq, epoch)
) STRICT, WITHOUT ROWID;

-- How many jobs there are, changed in the transactions that change the jobs. No row at zero.
CREATE TABLE counters (
    status TEXT NOT NULL,
    queue TEXT NOT NULL,
    type TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (status, queue, type)
) STRICT, WITHOUT ROWID;

-- Which nodes said that they are alive, and when they last did.
CREATE TABLE nodes (
    node TEXT PRIMARY KEY,
    beat_at INTEGER NOT NULL,
    stopping INTEGER NOT NULL              -- 1: it was told to stop; what it leaves behind was no crash
) STRICT, WITHOUT ROWID;

-- Which database this is, also after it was copied or moved to another path.
CREATE TABLE meta (
    incarnation TEXT NOT NULL,
    purpose TEXT CHECK (purpose IN ('demo', 'handlers'))  -- what its jobs are for; see dedicate.sql
) STRICT;

INSERT INTO meta (incarnation) VALUES (lower(hex(randomblob(16))));
