-- In how many seconds the first pending job of these types is due (NULL: of any type); negative when
-- it has been due for so long. For each type the first one that is due, and the first that is not.
WITH RECURSIVE pending_types AS (
    (
        SELECT type FROM trioqueue.live
        WHERE status = 'pending' AND %(types)s::text[] IS NULL
        ORDER BY type
        LIMIT 1
    )
    UNION ALL
    SELECT next.type
    FROM pending_types, LATERAL (
        SELECT live.type FROM trioqueue.live AS live
        WHERE live.status = 'pending' AND live.type > pending_types.type
        ORDER BY live.type
        LIMIT 1
    ) AS next
)

SELECT extract(epoch FROM min(first.run_at) - trioqueue.now())::double precision
FROM (SELECT type FROM pending_types UNION ALL SELECT unnest(%(types)s::text[])) AS known (type),
    (VALUES (true), (false)) AS part (due),
    LATERAL (
        SELECT live.run_at FROM trioqueue.live AS live
        WHERE live.status = 'pending' AND live.type = known.type AND live.due = part.due
        ORDER BY live.run_at
        LIMIT 1
    ) AS first;
