-- In one statement, so that what is being folded is neither missed nor seen twice.
SELECT queue, type, status, sum(jobs)::bigint
FROM (
    SELECT queue, type, status, jobs FROM trioqueue.counters
    UNION ALL
    SELECT queue, type, status, change FROM trioqueue.counter_changes
) AS counted
GROUP BY queue, type, status
HAVING sum(jobs) <> 0;
