-- A pending job ends; a processing one is asked to stop, once. Nothing happens to others.
WITH found AS MATERIALIZED (
    SELECT live.*
    FROM trioqueue.live AS live JOIN trioqueue.bodies AS bodies USING (seq)
    WHERE bodies.id = %(id)s
    FOR UPDATE OF live
),

asked AS (
    UPDATE trioqueue.live AS live SET cancel_requested_at = trioqueue.now(), version = live.version + 1
    FROM found
    WHERE live.seq = found.seq AND found.status = 'processing' AND found.cancel_requested_at IS NULL
),

gone AS (
    DELETE FROM trioqueue.live AS live USING found
    WHERE live.seq = found.seq AND found.status = 'pending'
    RETURNING live.*
),

final AS (
    INSERT INTO trioqueue.ended (
        seq, status, priority, run_at, attempt, epoch, version, crash_count, started_at, finished_at,
        cancel_requested_at, reason, progress
    )
    SELECT
        seq, 'cancelled', priority, run_at, attempt, epoch, version + 1, crash_count, started_at,
        trioqueue.now(), coalesce(cancel_requested_at, trioqueue.now()), 'cancelled', progress
    FROM gone
),

counted AS (
    INSERT INTO trioqueue.counter_changes (status, queue, type, change)
    SELECT changed, queue, type, change
    FROM gone, (VALUES ('pending', -1), ('cancelled', 1)) AS change (changed, change)
)

SELECT status FROM found;
