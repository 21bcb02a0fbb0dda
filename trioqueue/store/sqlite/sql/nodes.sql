-- The nodes and what they hold: a row for each processing job, one for a node without any, and
-- those of a node that holds jobs although it never said that it is there.
SELECT
    node, workers, types,
    -- 0: its row was written by a process of version 1, which does not know when it started.
    iif(nodes.started_at = 0, beat_at, nodes.started_at), beat_at, stopping,
    running.id, type, queue, epoch, running.started_at, lease_until, cancel_requested_at
FROM nodes FULL JOIN (
    SELECT node, seq, id, type, queue, epoch, started_at, lease_until, cancel_requested_at
    FROM jobs INDEXED BY jobs_leases
    WHERE status = 'processing'
) AS running USING (node)
ORDER BY running.started_at, running.seq;
