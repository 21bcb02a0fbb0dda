-- What nodes say of themselves, for whoever asks which nodes there are. A process of the version
-- before, that still runs, goes on: its statements know nothing of these columns.
ALTER TABLE nodes ADD COLUMN started_at INTEGER NOT NULL DEFAULT 0;  -- the first beat
ALTER TABLE nodes ADD COLUMN workers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN types TEXT DEFAULT '[]';                -- a JSON array; NULL: any
UPDATE nodes SET started_at = beat_at;

-- The oldest version of trioqueue that works with this database: see store/migrations.py.
ALTER TABLE meta ADD COLUMN oldest INTEGER;

-- Pending jobs that may come too late: see late.sql.
CREATE INDEX jobs_deadlines ON jobs (deadline_at) WHERE status = 'pending' AND deadline_at IS NOT NULL;
