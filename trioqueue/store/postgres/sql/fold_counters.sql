-- Adds some of the changes to the counters; returns how many. One node at a time: the lock ends with the
-- statement. A bounded number, since somebody may have enqueued millions of jobs one by one.
WITH mine AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock('trioqueue.counters'::regclass::oid::integer, 1) AS locked
),

gone AS (
    DELETE FROM trioqueue.counter_changes
    WHERE ctid = ANY (
        ARRAY(SELECT ctid FROM trioqueue.counter_changes WHERE (SELECT locked FROM mine) LIMIT %(limit)s)
    )
    RETURNING status, queue, type, change
),

folded AS (
    INSERT INTO trioqueue.counters AS counters (status, queue, type, jobs)
    SELECT status, queue, type, sum(change) FROM gone
    GROUP BY status, queue, type
    ORDER BY status, queue, type
    ON CONFLICT (status, queue, type) DO UPDATE SET jobs = counters.jobs + excluded.jobs
)

SELECT count(*) FROM gone;
