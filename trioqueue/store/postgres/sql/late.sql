-- Pending jobs whose deadline has come.
SELECT {job_columns}
FROM (
    SELECT seq FROM trioqueue.live
    WHERE status = 'pending' AND deadline_at IS NOT NULL AND deadline_at <= trioqueue.now()
    ORDER BY deadline_at, seq
    LIMIT %(limit)s
) AS late
JOIN trioqueue.jobs AS jobs USING (seq)
ORDER BY jobs.deadline_at, seq;
