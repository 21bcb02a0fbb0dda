-- oldest: 1
-- A job is one row in `bodies`, which never changes, and one in `live` while it is pending or
-- processing, or one in `ended` afterwards. So only `live` is ever updated: it is narrow, holds no
-- finished job, and is quick to vacuum, however many jobs the others keep. The view `jobs` puts
-- them together, for people and for reports.
--
-- Names, tags and keys are compared byte by byte (COLLATE "C"): quick, and no upgrade of the
-- operating system's collations can spoil an index.

CREATE SEQUENCE trioqueue.seq;

-- The clock of this store: it alone says what is due and which lease has expired. The server's own;
-- a schema that is made for tests in virtual time has another definition.
CREATE FUNCTION trioqueue.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
RETURN statement_timestamp();

CREATE TABLE trioqueue.bodies (
    seq bigint PRIMARY KEY,                -- the order in which the store accepted the jobs
    id uuid NOT NULL UNIQUE,
    type text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    max_attempts integer NOT NULL,
    timeout_seconds double precision,
    deadline_at timestamptz,
    unique_key text COLLATE "C",
    parent_id uuid,
    root_id uuid NOT NULL,
    schedule text,
    traceparent text,
    created_at timestamptz NOT NULL,
    tags text[],                           -- NULL when there are none
    payload text NOT NULL                  -- JSON
);

-- Lists, newest first.
CREATE INDEX {prefix}bodies_by_type ON trioqueue.bodies (type, seq);
CREATE INDEX {prefix}bodies_by_queue ON trioqueue.bodies (queue, seq);

CREATE TABLE trioqueue.live (
    seq bigint PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    priority integer NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'processing')),
    due boolean NOT NULL,                  -- pending, and its run_at has been seen to have come
    run_at timestamptz NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 1,
    crash_count integer NOT NULL DEFAULT 0,
    node text,
    claim_token bigint,                    -- which call of claim() has it, in case its answer is lost
    lease_until timestamptz,
    started_at timestamptz,
    cancel_requested_at timestamptz,
    deadline_at timestamptz,
    unique_key text COLLATE "C",
    reason text,
    progress text
) WITH (
    fillfactor = 70,                       -- room beside a row for its next version
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_analyze_threshold = 2000
);

-- Claims. A lane is one type in one queue; see claim.sql. Only due jobs are in this index, so
-- millions of delayed jobs with a better priority cost a claim nothing.
CREATE INDEX {prefix}live_due ON trioqueue.live (queue, type, priority, run_at, seq) WHERE due;

-- When the next job of a type comes due (due false), and since when the first one waits (due true).
CREATE INDEX {prefix}live_waiting ON trioqueue.live (type, due, run_at) WHERE status = 'pending';

-- Leases that have expired. Short: it holds what all nodes are working on now.
CREATE INDEX {prefix}live_leases ON trioqueue.live (lease_until) WHERE status = 'processing';

-- Pending jobs that may come too late.
CREATE INDEX {prefix}live_deadlines ON trioqueue.live (deadline_at)
WHERE status = 'pending' AND deadline_at IS NOT NULL;

-- At most one live job with a unique_key.
CREATE UNIQUE INDEX {prefix}live_unique_key ON trioqueue.live (unique_key) WHERE unique_key IS NOT NULL;

CREATE TABLE trioqueue.ended (
    seq bigint PRIMARY KEY,
    status text NOT NULL CHECK (status IN ('completed', 'cancelled', 'dead')),
    priority integer NOT NULL,
    run_at timestamptz NOT NULL,
    attempt integer NOT NULL,
    epoch bigint NOT NULL,
    version bigint NOT NULL,
    crash_count integer NOT NULL,
    started_at timestamptz,
    finished_at timestamptz NOT NULL,
    cancel_requested_at timestamptz,
    reason text,
    progress text,                         -- JSON
    result text                            -- JSON
);

-- Lists of one status, newest first; and pruning.
CREATE INDEX {prefix}ended_by_status ON trioqueue.ended (status, seq);
CREATE INDEX {prefix}ended_finished ON trioqueue.ended (status, finished_at, seq);

-- For lists by tag. The body has its tags, too: to show them, and to delete these.
CREATE TABLE trioqueue.job_tags (
    tag text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (tag, seq)
);

-- The ledger: one row for each attempt that has ended. A claim's epoch is never given twice.
CREATE TABLE trioqueue.attempts (
    seq bigint NOT NULL,
    epoch bigint NOT NULL,
    number integer NOT NULL,
    node text NOT NULL,
    worker integer,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    outcome text NOT NULL,
    error text,
    PRIMARY KEY (seq, epoch)
);

-- How many jobs there are. Transactions that change jobs only add rows to `counter_changes`, for
-- they would have to wait for each other to change a counter; see fold_counters.sql. The counts
-- are the sum of both.
CREATE TABLE trioqueue.counters (
    status text NOT NULL,
    queue text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    jobs bigint NOT NULL,
    PRIMARY KEY (status, queue, type)
);

CREATE TABLE trioqueue.counter_changes (
    status text NOT NULL,
    queue text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    change bigint NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0
);

-- Which nodes said that they are alive, and when they last did.
CREATE TABLE trioqueue.nodes (
    node text PRIMARY KEY,
    workers integer NOT NULL,
    types text[],                          -- NULL: any
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    stopping boolean NOT NULL              -- it was told to stop; what it leaves behind was no crash
);

-- One row. `version` is the last migration that was applied; see migrate.py.
CREATE TABLE trioqueue.meta (
    version integer NOT NULL,
    oldest integer NOT NULL,               -- the oldest version of trioqueue that can work with it
    incarnation uuid NOT NULL DEFAULT gen_random_uuid(),
    virtual_time boolean NOT NULL DEFAULT false,
    purpose text CHECK (purpose IN ('demo', 'handlers'))  -- what its jobs are for; see dedicate.sql
);

INSERT INTO trioqueue.meta (version, oldest) VALUES (0, 0);

CREATE VIEW trioqueue.jobs AS
SELECT
    seq,
    bodies.id,
    bodies.type,
    bodies.queue,
    coalesce(live.priority, ended.priority) AS priority,
    coalesce(live.status, ended.status) AS status,
    coalesce(live.run_at, ended.run_at) AS run_at,
    coalesce(live.attempt, ended.attempt) AS attempt,
    bodies.max_attempts,
    coalesce(live.epoch, ended.epoch) AS epoch,
    coalesce(live.version, ended.version) AS version,
    coalesce(live.crash_count, ended.crash_count) AS crash_count,
    live.node,
    live.lease_until,
    bodies.timeout_seconds,
    bodies.deadline_at,
    bodies.unique_key,
    bodies.parent_id,
    bodies.root_id,
    bodies.schedule,
    bodies.traceparent,
    bodies.created_at,
    coalesce(live.started_at, ended.started_at) AS started_at,
    ended.finished_at,
    coalesce(live.cancel_requested_at, ended.cancel_requested_at) AS cancel_requested_at,
    coalesce(live.reason, ended.reason) AS reason,
    bodies.tags,
    bodies.payload,
    coalesce(live.progress, ended.progress) AS progress,
    ended.result
FROM trioqueue.bodies AS bodies
LEFT JOIN trioqueue.live AS live USING (seq)
LEFT JOIN trioqueue.ended AS ended USING (seq);

-- Enqueue a job from SQL, in whatever transaction the caller is in: rolled back means no job.
-- Returns the job's id, or that of the pending or processing job that has the unique_key.
--
-- Nobody is notified, for that would make the caller's commit wait for others. Nodes find the job
-- when they next look, which they do about each second.
CREATE FUNCTION trioqueue.enqueue(
    type text,
    payload jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    priority integer DEFAULT 0,
    run_at timestamptz DEFAULT NULL,
    delay_seconds double precision DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    timeout_seconds double precision DEFAULT NULL,
    deadline_at timestamptz DEFAULT NULL,
    unique_key text DEFAULT NULL,
    tags text[] DEFAULT NULL,
    parent_id uuid DEFAULT NULL,
    traceparent text DEFAULT NULL,
    id uuid DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    at timestamptz := trioqueue.now();
    due_at timestamptz := {prefix}enqueue.run_at;
    job_id uuid := {prefix}enqueue.id;
    job_seq bigint;
    root uuid;
    there uuid;
    labels text[];
BEGIN
    IF {prefix}enqueue.type IS NULL OR {prefix}enqueue.type !~ '^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,99}$' THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'type: 1 to 100 letters, digits or _ . : / - are expected, beginning with none of . : / -';
    END IF;
    IF {prefix}enqueue.queue IS NULL OR {prefix}enqueue.queue !~ '^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}$' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'queue: 1 to 100 letters, digits or any of _ . : - are expected';
    END IF;
    IF {prefix}enqueue.payload IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'payload: JSON is expected, not NULL';
    END IF;
    IF jsonb_path_exists({prefix}enqueue.payload, 'strict $.**{64 to last} ? (@.type() == "array" || @.type() == "object")') THEN
        RAISE invalid_parameter_value USING MESSAGE = 'payload: it is nested more than 64 levels deep';
    END IF;
    IF jsonb_path_exists(
        {prefix}enqueue.payload, 'strict $.** ? (@.type() == "number") ? (@ > 1.7e308 || @ < -1.7e308)'
    ) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'payload: a number is out of range';
    END IF;
    IF {prefix}enqueue.priority IS NULL OR {prefix}enqueue.priority NOT BETWEEN -1000000 AND 1000000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'priority: a number from -1000000 to 1000000 is expected';
    END IF;
    IF {prefix}enqueue.max_attempts IS NULL OR {prefix}enqueue.max_attempts NOT BETWEEN 1 AND 1000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'max_attempts: a number from 1 to 1000 is expected';
    END IF;
    IF {prefix}enqueue.timeout_seconds NOT BETWEEN 0.001 AND 10000000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'timeout_seconds: from 0.001 to 10000000 are expected';
    END IF;
    IF {prefix}enqueue.run_at IS NOT NULL AND {prefix}enqueue.delay_seconds IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'delay_seconds: give run_at or delay_seconds, not both';
    END IF;
    IF {prefix}enqueue.delay_seconds NOT BETWEEN 0 AND 3155760000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'delay_seconds: from 0 to 3155760000 are expected';
    END IF;
    due_at := coalesce(due_at, at + make_interval(secs => coalesce({prefix}enqueue.delay_seconds, 0)));
    IF due_at NOT BETWEEN '2000-01-02Z'::timestamptz AND '2199-12-31Z'::timestamptz THEN
        RAISE invalid_parameter_value USING MESSAGE = 'run_at: the year must be from 2000 to 2199';
    END IF;
    IF {prefix}enqueue.deadline_at <= greatest(at, due_at)
        OR {prefix}enqueue.deadline_at > '2199-12-31Z'::timestamptz
    THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'deadline_at: the deadline must come after run_at, after now, and before 2200';
    END IF;
    IF length({prefix}enqueue.unique_key) NOT BETWEEN 1 AND 200 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'unique_key: 1 to 200 characters are expected';
    END IF;
    SELECT nullif(array_agg(DISTINCT tag), '{}') INTO labels FROM unnest({prefix}enqueue.tags) AS given(tag);
    IF cardinality(labels) > 20
        OR EXISTS (SELECT FROM unnest(labels) AS given(tag) WHERE tag IS NULL OR length(tag) NOT BETWEEN 1 AND 64)
    THEN
        RAISE invalid_parameter_value USING MESSAGE = 'tags: at most 20 are expected, of 1 to 64 characters each';
    END IF;
    IF {prefix}enqueue.traceparent !~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'traceparent: a W3C traceparent is expected';
    END IF;
    IF job_id IS NULL THEN
        -- A UUIDv7 (RFC 9562, section 5.7): milliseconds, the version, and the rest of a random UUID.
        job_id := overlay(
            replace(gen_random_uuid()::text, '-', '')
            PLACING lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' FROM 1 FOR 13
        )::uuid;
    END IF;
    root := job_id;
    IF {prefix}enqueue.parent_id IS NOT NULL THEN
        SELECT body.root_id INTO root FROM trioqueue.bodies AS body WHERE body.id = {prefix}enqueue.parent_id;
        IF NOT FOUND THEN
            RAISE invalid_parameter_value USING MESSAGE = 'parent_id: there is no such job';
        END IF;
    END IF;
    LOOP
        SELECT body.id INTO there FROM trioqueue.bodies AS body WHERE body.id = job_id;
        IF FOUND THEN
            RETURN there;
        END IF;
        INSERT INTO trioqueue.live (seq, queue, type, priority, status, due, run_at, deadline_at, unique_key)
        VALUES (
            nextval('trioqueue.seq'), {prefix}enqueue.queue, {prefix}enqueue.type, {prefix}enqueue.priority, 'pending',
            due_at <= at, due_at, {prefix}enqueue.deadline_at, {prefix}enqueue.unique_key
        )
        ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
        RETURNING seq INTO job_seq;
        EXIT WHEN FOUND;
        SELECT body.id INTO there FROM trioqueue.live AS holder JOIN trioqueue.bodies AS body USING (seq)
        WHERE holder.unique_key = {prefix}enqueue.unique_key;
        IF FOUND THEN
            RETURN there;
        END IF;
        -- The job that had the key has ended since: try again.
    END LOOP;
    INSERT INTO trioqueue.bodies (
        seq, id, type, queue, max_attempts, timeout_seconds, deadline_at, unique_key, parent_id, root_id,
        traceparent, created_at, tags, payload
    ) VALUES (
        job_seq, job_id, {prefix}enqueue.type, {prefix}enqueue.queue, {prefix}enqueue.max_attempts, {prefix}enqueue.timeout_seconds,
        {prefix}enqueue.deadline_at, {prefix}enqueue.unique_key, {prefix}enqueue.parent_id, root, {prefix}enqueue.traceparent, at, labels,
        {prefix}enqueue.payload::text
    );
    INSERT INTO trioqueue.job_tags (tag, seq) SELECT tag, job_seq FROM unnest(labels) AS given(tag);
    INSERT INTO trioqueue.counter_changes VALUES ('pending', {prefix}enqueue.queue, {prefix}enqueue.type, 1);
    RETURN job_id;
END
$$;
