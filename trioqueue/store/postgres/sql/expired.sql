-- Jobs whose lease has expired. They are settled by a statement of its own, which looks again.
SELECT {job_columns}, nodes.stopping IS TRUE
FROM (
    SELECT seq FROM trioqueue.live
    WHERE status = 'processing' AND lease_until <= trioqueue.now()
    ORDER BY lease_until, seq
    LIMIT %(limit)s
) AS expired
JOIN trioqueue.jobs AS jobs USING (seq)
LEFT JOIN trioqueue.nodes AS nodes ON nodes.node = jobs.node
ORDER BY jobs.lease_until, seq;
