-- Adds the changes to the counters. One node at a time: a lock that ends with the statement.
WITH mine AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock('trioqueue.counters'::regclass::oid::integer, 1) AS locked
),

gone AS (
    DELETE FROM trioqueue.counter_changes WHERE (SELECT locked FROM mine)
    RETURNING status, queue, type, change
)

INSERT INTO trioqueue.counters AS counters (status, queue, type, jobs)
SELECT status, queue, type, sum(change) FROM gone GROUP BY status, queue, type ORDER BY status, queue, type
ON CONFLICT (status, queue, type) DO UPDATE SET jobs = counters.jobs + excluded.jobs;
