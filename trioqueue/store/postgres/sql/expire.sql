-- Ends pending jobs; those that have not changed since they were read.
WITH known AS MATERIALIZED (
    SELECT body.seq, input.*
    FROM
        unnest(
            %(n)s::integer[], %(id)s::uuid[], %(version)s::bigint[], %(status)s::text[], %(reason)s::text[]
        ) AS input (n, id, known_version, new_status, new_reason),
        LATERAL (SELECT seq FROM trioqueue.bodies AS bodies WHERE bodies.id = input.id LIMIT 1) AS body
    ORDER BY body.seq
),

late AS MATERIALIZED (
    SELECT live.*, known.n, known.new_status, known.new_reason
    FROM known, LATERAL (
        SELECT * FROM trioqueue.live AS late
        WHERE late.seq = known.seq AND late.status = 'pending' AND late.version = known.known_version
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS live
),

gone AS (DELETE FROM trioqueue.live WHERE seq = ANY (ARRAY(SELECT seq FROM late))),

final AS (
    INSERT INTO trioqueue.ended (
        seq, status, priority, run_at, attempt, epoch, version, crash_count, started_at, finished_at,
        cancel_requested_at, reason, progress
    )
    SELECT
        seq, new_status, priority, run_at, attempt, epoch, version + 1, crash_count, started_at,
        trioqueue.now(), cancel_requested_at, new_reason, progress
    FROM late
),

counted AS (
    INSERT INTO trioqueue.counter_changes (status, queue, type, change)
    SELECT changed, queue, type, sum(change)
    FROM late, LATERAL (VALUES ('pending', -1), (late.new_status, 1)) AS change (changed, change)
    GROUP BY changed, queue, type
)

SELECT n, trioqueue.now() FROM late;
