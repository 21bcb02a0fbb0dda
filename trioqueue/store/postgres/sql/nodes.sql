-- The nodes that have said that they are alive, and any other that holds a job.
SELECT
    node,
    workers,
    types,
    started_at,
    seen_at,
    extract(epoch FROM trioqueue.now() - seen_at)::double precision,
    stopping
FROM (
    SELECT node, workers, types, started_at, seen_at, stopping FROM trioqueue.nodes
    UNION ALL
    SELECT live.node, 0, '{}', min(live.started_at), max(live.started_at), false
    FROM trioqueue.live AS live
    WHERE live.status = 'processing'
        AND NOT EXISTS (SELECT FROM trioqueue.nodes AS nodes WHERE nodes.node = live.node)
    GROUP BY live.node
) AS seen
ORDER BY started_at, node COLLATE "C";
