-- Deletes ended jobs of one status with all that belongs to them, the oldest first.
WITH old AS MATERIALIZED (
    SELECT seq FROM trioqueue.ended
    WHERE status = %(status)s AND finished_at <= trioqueue.now() - %(kept_for)s::interval
    ORDER BY finished_at, seq
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
),

gone AS (DELETE FROM trioqueue.ended WHERE seq = ANY (ARRAY(SELECT seq FROM old))),

bodies AS (
    DELETE FROM trioqueue.bodies AS bodies WHERE seq = ANY (ARRAY(SELECT seq FROM old))
    RETURNING bodies.seq, bodies.queue, bodies.type, bodies.tags
),

ledger AS (DELETE FROM trioqueue.attempts WHERE seq = ANY (ARRAY(SELECT seq FROM old))),

tags AS (
    DELETE FROM trioqueue.job_tags
    WHERE tag = ANY (ARRAY(SELECT DISTINCT unnest(tags) FROM bodies))
        AND seq = ANY (ARRAY(SELECT seq FROM bodies WHERE tags IS NOT NULL))
),

counted AS (
    INSERT INTO trioqueue.counter_changes (status, queue, type, change)
    SELECT %(status)s, queue, type, -count(*) FROM bodies GROUP BY queue, type
)

SELECT count(*) FROM old;
