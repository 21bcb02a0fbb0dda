-- Takes due jobs: the first of all lanes that the node knows, by priority, run_at and seq.
--
-- A lane is one type in one queue. One index over all types would need no lanes, but a node would
-- then walk past every due job whose type it does not know, at every claim. The lanes are found by
-- skipping from one to the next in the index of due jobs, so their number costs, not their length.
--
-- A delayed job whose time has come is not in that index yet. Some of them, the oldest, are taken
-- into account here, and those that are not claimed become due in the same statement.
--
-- SKIP LOCKED: nodes that claim at once take what the others leave, and nobody waits. Each lane
-- first says, without locking, how many of its jobs are among the first; only so many are locked.
WITH RECURSIVE purpose AS MATERIALIZED (
    -- Demo mode names no types. It gets nothing any more once real handlers have served the store.
    SELECT %(types)s::text[] IS NULL AND purpose IS DISTINCT FROM 'handlers' AS demo FROM trioqueue.meta
),

lanes AS (
    (SELECT queue, type FROM trioqueue.live WHERE due ORDER BY queue, type LIMIT 1)
    UNION ALL
    SELECT lane.queue, lane.type
    FROM lanes, LATERAL (
        SELECT live.queue, live.type FROM trioqueue.live AS live
        WHERE due AND (live.queue, live.type) > (lanes.queue, lanes.type)
        ORDER BY live.queue, live.type
        LIMIT 1
    ) AS lane
),

heads AS (
    SELECT head.*
    FROM lanes, LATERAL (
        SELECT live.queue, live.type, live.priority, live.run_at, live.seq
        FROM trioqueue.live AS live
        WHERE due AND live.queue = lanes.queue AND live.type = lanes.type
            AND (live.deadline_at IS NULL OR live.deadline_at > trioqueue.now())
        ORDER BY live.priority, live.run_at, live.seq
        LIMIT %(limit)s
    ) AS head
    WHERE lanes.type = ANY (%(types)s::text[]) OR (SELECT demo FROM purpose)
    ORDER BY head.priority, head.run_at, head.seq
    LIMIT %(limit)s
),

shares AS (SELECT queue, type, count(*) AS jobs FROM heads GROUP BY queue, type),

first AS MATERIALIZED (
    SELECT job.*
    FROM shares, LATERAL (
        SELECT live.seq, live.priority, live.run_at
        FROM trioqueue.live AS live
        WHERE due AND live.queue = shares.queue AND live.type = shares.type
            AND (live.deadline_at IS NULL OR live.deadline_at > trioqueue.now())
        ORDER BY live.priority, live.run_at, live.seq
        LIMIT shares.jobs
        FOR UPDATE SKIP LOCKED
    ) AS job
    LIMIT %(limit)s
),

pending_types AS (
    (
        SELECT type FROM trioqueue.live
        WHERE status = 'pending' AND (SELECT demo FROM purpose)
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
),

promotable AS MATERIALIZED (
    SELECT job.*
    FROM (
        SELECT type FROM pending_types UNION ALL SELECT unnest(%(types)s::text[])
    ) AS known (type), LATERAL (
        SELECT live.seq, live.priority, live.run_at
        FROM trioqueue.live AS live
        WHERE live.status = 'pending' AND NOT live.due AND live.type = known.type
            AND live.run_at <= trioqueue.now()
            AND (live.deadline_at IS NULL OR live.deadline_at > trioqueue.now())
        ORDER BY live.run_at
        LIMIT %(promoted)s
        FOR UPDATE SKIP LOCKED
    ) AS job
    LIMIT 10 * %(promoted)s
),

chosen AS MATERIALIZED (
    SELECT seq FROM (SELECT * FROM first UNION ALL SELECT * FROM promotable) AS candidates
    ORDER BY priority, run_at, seq
    LIMIT %(limit)s
),

-- As an array, because the planner takes that for few rows; of a join it expects too many, and would
-- read the whole table.
promoted AS (
    UPDATE trioqueue.live SET due = true
    WHERE seq = ANY (ARRAY(SELECT seq FROM promotable EXCEPT SELECT seq FROM chosen))
),

claimed AS (
    UPDATE trioqueue.live AS live SET
        status = 'processing',
        due = false,
        epoch = epoch + 1,
        attempt = attempt + 1,
        version = version + 1,
        node = %(node)s,
        claim_token = %(token)s,
        lease_until = trioqueue.now() + make_interval(secs => %(lease_seconds)s),
        started_at = trioqueue.now(),
        progress = NULL
    FROM chosen
    WHERE live.seq = chosen.seq
    RETURNING live.*
),

counted AS (
    INSERT INTO trioqueue.counter_changes (status, queue, type, change)
    SELECT change.status, queue, type, change.sign * count(*)
    FROM claimed, (VALUES ('pending', -1), ('processing', 1)) AS change (status, sign)
    GROUP BY change.status, change.sign, queue, type
)

SELECT {claimed_columns}
FROM claimed JOIN trioqueue.bodies AS bodies USING (seq)
ORDER BY claimed.priority, claimed.run_at, seq;
