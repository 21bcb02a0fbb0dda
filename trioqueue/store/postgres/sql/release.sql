-- Gives claims back as if they had never been made, but for the epoch; those that hold their job
-- still. Who was asked to stop meanwhile is cancelled. With `tokens`, whatever those calls of
-- claim() took: their answers were lost.
WITH known AS MATERIALIZED (
    SELECT body.seq, input.epoch
    FROM
        unnest(%(id)s::uuid[], %(epoch)s::bigint[]) AS input (id, epoch),
        LATERAL (SELECT seq FROM trioqueue.bodies AS bodies WHERE bodies.id = input.id LIMIT 1) AS body
    UNION
    SELECT seq, epoch FROM trioqueue.live
    WHERE status = 'processing' AND node = %(node)s AND claim_token = ANY (%(tokens)s::bigint[])
    ORDER BY seq
),

held AS MATERIALIZED (
    SELECT live.*
    FROM known, LATERAL (
        SELECT * FROM trioqueue.live AS held
        WHERE held.seq = known.seq AND held.status = 'processing' AND held.epoch = known.epoch
        LIMIT 1
        FOR UPDATE
    ) AS live
),

again AS (
    UPDATE trioqueue.live AS live SET
        status = 'pending',
        due = live.run_at <= trioqueue.now(),
        attempt = live.attempt - 1,
        version = live.version + 1,
        node = NULL,
        claim_token = NULL,
        lease_until = NULL,
        started_at = (
            SELECT attempts.started_at FROM trioqueue.attempts AS attempts
            WHERE attempts.seq = live.seq ORDER BY attempts.epoch DESC LIMIT 1
        )
    WHERE live.seq = ANY (ARRAY(SELECT seq FROM held WHERE cancel_requested_at IS NULL))
),

gone AS (
    DELETE FROM trioqueue.live
    WHERE seq = ANY (ARRAY(SELECT seq FROM held WHERE cancel_requested_at IS NOT NULL))
),

final AS (
    INSERT INTO trioqueue.ended (
        seq, status, priority, run_at, attempt, epoch, version, crash_count, started_at, finished_at,
        cancel_requested_at, reason, progress
    )
    SELECT
        seq, 'cancelled', priority, run_at, attempt - 1, epoch, version + 1, crash_count,
        (
            SELECT attempts.started_at FROM trioqueue.attempts AS attempts
            WHERE attempts.seq = held.seq ORDER BY attempts.epoch DESC LIMIT 1
        ),
        trioqueue.now(), cancel_requested_at, 'cancelled', progress
    FROM held WHERE cancel_requested_at IS NOT NULL
),

counted AS (
    INSERT INTO trioqueue.counter_changes (status, queue, type, change)
    SELECT changed, queue, type, sum(change)
    FROM held, LATERAL (VALUES
        ('processing', -1),
        (CASE WHEN cancel_requested_at IS NULL THEN 'pending' ELSE 'cancelled' END, 1)
    ) AS change (changed, change)
    GROUP BY changed, queue, type
)

SELECT queue FROM held;
