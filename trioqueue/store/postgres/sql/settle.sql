-- Records how attempts ended. Fenced: a job that is not processing under the claim's epoch is
-- passed over. What becomes of a job depends on whether somebody asked it to stop, so each
-- settlement may come twice: for a job that was asked (`asked` true) and for one that was not; NULL
-- fits both. The row that fits is applied; both were made by jobs/lifecycle.py.
--
-- With `expired` it settles only what no node renews any more: see rescue. Then {skip_locked} is SKIP
-- LOCKED, for one row in somebody else's transaction must not hold up the others.
-- Rows are locked in the order of seq, here and everywhere, so that no two calls wait for each other.
--
-- Each row is looked up by its key. LATERAL with LIMIT, and keys as an array, leave the planner no
-- other way: of a join it expects more from reading a small table whole, and of one that has grown since
-- it was last analyzed, too.
WITH input AS (
    SELECT * FROM unnest(
        %(n)s::integer[], %(id)s::uuid[], %(epoch)s::bigint[], %(asked)s::boolean[], %(status)s::text[],
        %(attempt)s::integer[], %(crash_count)s::integer[], %(wait_seconds)s::double precision[],
        %(reason)s::text[], %(result)s::text[], %(outcome)s::text[], %(error)s::text[], %(worker)s::integer[]
    ) AS input (
        n, id, epoch, asked, status, attempt, crash_count, wait_seconds, reason, result, outcome, error,
        worker
    )
),

known AS MATERIALIZED (
    SELECT body.seq, input.*
    FROM input, LATERAL (SELECT seq FROM trioqueue.bodies AS bodies WHERE bodies.id = input.id LIMIT 1) AS body
    ORDER BY body.seq
),

held AS MATERIALIZED (
    SELECT
        live.queue,
        live.type,
        live.priority,
        live.run_at,
        live.node,
        live.attempt AS number,
        live.started_at,
        live.lease_until,
        live.version,
        live.cancel_requested_at,
        live.progress,
        known.*
    FROM known, LATERAL (
        SELECT * FROM trioqueue.live AS held
        WHERE held.seq = known.seq
            AND held.status = 'processing'
            AND held.epoch = known.epoch
            AND (NOT %(expired)s OR held.lease_until <= trioqueue.now())
        LIMIT 1
        FOR UPDATE {skip_locked}
    ) AS live
    -- Asked of the row as it is once it is locked. In the condition above, one that is being changed at
    -- this moment would fit neither way: not asked when it was found, asked when it was locked.
    WHERE known.asked IS NULL OR known.asked = (live.cancel_requested_at IS NOT NULL)
),

again AS (
    UPDATE trioqueue.live AS live SET
        status = 'pending',
        run_at = coalesce(trioqueue.now() + make_interval(secs => held.wait_seconds), live.run_at),
        due = coalesce(held.wait_seconds <= 0, live.run_at <= trioqueue.now()),
        attempt = held.attempt,
        crash_count = held.crash_count,
        reason = held.reason,
        version = live.version + 1,
        node = NULL,
        claim_token = NULL,
        lease_until = NULL
    FROM held
    WHERE live.seq = held.seq AND live.seq = ANY (ARRAY(SELECT seq FROM held WHERE status = 'pending'))
),

gone AS (
    DELETE FROM trioqueue.live WHERE seq = ANY (ARRAY(SELECT seq FROM held WHERE status <> 'pending'))
),

final AS (
    INSERT INTO trioqueue.ended (
        seq, status, priority, run_at, attempt, epoch, version, crash_count, started_at, finished_at,
        cancel_requested_at, reason, progress, result
    )
    SELECT
        seq, status, priority, run_at, attempt, epoch, version + 1, crash_count, started_at,
        trioqueue.now(), cancel_requested_at, reason, progress, result
    FROM held WHERE status <> 'pending'
),

ledger AS (
    INSERT INTO trioqueue.attempts (
        seq, epoch, number, node, worker, started_at, ended_at, outcome, error
    )
    SELECT seq, epoch, number, node, worker, started_at, trioqueue.now(), outcome, error FROM held
),

counted AS (
    INSERT INTO trioqueue.counter_changes (status, queue, type, change)
    SELECT changed, queue, type, sum(change)
    FROM held, LATERAL (VALUES ('processing', -1), (held.status, 1)) AS change (changed, change)
    GROUP BY changed, queue, type
)

SELECT n, asked, version, lease_until, cancel_requested_at, progress, trioqueue.now() FROM held;
