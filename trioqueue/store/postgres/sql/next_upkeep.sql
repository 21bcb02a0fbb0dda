-- In how many seconds the first lease ends, the first deadline of a pending job comes, and how many
-- seconds ago (so negative) by status the first job ended.
SELECT
    extract(epoch FROM instant - trioqueue.now())::double precision
FROM (
    VALUES
    (1, (SELECT min(lease_until) FROM trioqueue.live WHERE status = 'processing')),
    (
        2,
        (
            SELECT min(deadline_at) FROM trioqueue.live
            WHERE status = 'pending' AND deadline_at IS NOT NULL
        )
    ),
    (3, (SELECT min(finished_at) FROM trioqueue.ended WHERE status = 'completed')),
    (4, (SELECT min(finished_at) FROM trioqueue.ended WHERE status = 'cancelled')),
    (5, (SELECT min(finished_at) FROM trioqueue.ended WHERE status = 'dead'))
) AS firsts (n, instant)
ORDER BY n;
