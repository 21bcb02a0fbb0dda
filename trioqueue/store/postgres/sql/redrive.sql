-- Puts dead and cancelled jobs back among the live ones; those whose deadline has not come, and whose
-- unique_key no live job has, of this statement or of any other transaction. Returns the jobs as they
-- were; a row in `ended` never changes, so the ones that were locked are the ones that were read.
WITH asked AS MATERIALIZED (
    SELECT body.*, input.n
    FROM
        unnest(%(n)s::integer[], %(id)s::uuid[]) AS input (n, id),
        LATERAL (
            SELECT seq, queue, type, deadline_at, unique_key
            FROM trioqueue.bodies AS bodies WHERE bodies.id = input.id LIMIT 1
        ) AS body
    ORDER BY body.seq
),

found AS MATERIALIZED (
    SELECT asked.n, asked.queue, asked.type, asked.deadline_at, asked.unique_key, final.*
    FROM asked, LATERAL (
        SELECT * FROM trioqueue.ended AS ended
        WHERE ended.seq = asked.seq AND ended.status IN ('dead', 'cancelled')
        LIMIT 1
        FOR UPDATE
    ) AS final
),

again AS (
    INSERT INTO trioqueue.live (
        seq, queue, type, priority, status, due, run_at, attempt, epoch, version, crash_count, started_at,
        deadline_at, unique_key, progress
    )
    SELECT
        seq, queue, type, priority, 'pending', true, trioqueue.now(), 0, epoch, version + 1, 0, started_at,
        deadline_at, unique_key, progress
    FROM found
    WHERE deadline_at IS NULL OR deadline_at > trioqueue.now()
    ORDER BY n
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING seq
),

gone AS (DELETE FROM trioqueue.ended WHERE seq = ANY (ARRAY(SELECT seq FROM again))),

counted AS (
    INSERT INTO trioqueue.counter_changes (status, queue, type, change)
    SELECT changed, queue, type, sum(change)
    FROM
        found JOIN again USING (seq),
        LATERAL (VALUES (found.status, -1), ('pending', 1)) AS change (changed, change)
    GROUP BY changed, queue, type
)

SELECT
    asked.n,
    asked.seq IN (SELECT seq FROM found),
    asked.seq IN (SELECT seq FROM again),
    trioqueue.now(),
    {job_columns}
FROM asked JOIN trioqueue.jobs AS jobs USING (seq)
ORDER BY asked.n;
