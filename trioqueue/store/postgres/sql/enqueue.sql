-- Keeps new jobs, all or none; returns those that were created. A job is passed over whose id is
-- known, or whose unique_key a live job has, of this statement or of any other transaction.
--
-- Two statements with the same id at the same time both see nothing, and the later one fails on the
-- unique id: the store then asks again.
WITH input AS (
    SELECT * FROM unnest(
        %(n)s::integer[], %(id)s::uuid[], %(type)s::text[], %(queue)s::text[], %(priority)s::integer[],
        %(run_at)s::timestamptz[], %(delay_seconds)s::double precision[], %(max_attempts)s::integer[],
        %(timeout_seconds)s::double precision[], %(deadline_at)s::timestamptz[], %(unique_key)s::text[],
        %(parent_id)s::uuid[], %(root_id)s::uuid[], %(schedule)s::text[], %(traceparent)s::text[],
        %(tags)s::jsonb[], %(payload)s::text[]
    ) AS input (
        n, id, type, queue, priority, run_at, delay_seconds, max_attempts, timeout_seconds, deadline_at,
        unique_key, parent_id, root_id, schedule, traceparent, tags, payload
    )
),

fresh AS MATERIALIZED (
    SELECT
        unknown.*,
        nextval('trioqueue.seq') AS seq,
        coalesce(run_at, trioqueue.now() + make_interval(secs => coalesce(delay_seconds, 0))) AS due_at
    FROM (
        SELECT * FROM input
        WHERE (SELECT true FROM trioqueue.bodies AS bodies WHERE bodies.id = input.id LIMIT 1) IS NULL
        ORDER BY n
    ) AS unknown
),

placed AS (
    INSERT INTO trioqueue.live (seq, queue, type, priority, status, due, run_at, deadline_at, unique_key)
    SELECT seq, queue, type, priority, 'pending', due_at <= trioqueue.now(), due_at, deadline_at, unique_key
    FROM fresh ORDER BY n
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING seq
),

created AS (SELECT fresh.* FROM fresh JOIN placed USING (seq)),

kept AS (
    INSERT INTO trioqueue.bodies (
        seq, id, type, queue, max_attempts, timeout_seconds, deadline_at, unique_key, parent_id, root_id,
        schedule, traceparent, created_at, tags, payload
    )
    SELECT
        seq, id, type, queue, max_attempts, timeout_seconds, deadline_at, unique_key, parent_id, root_id,
        schedule, traceparent, trioqueue.now(),
        CASE WHEN tags IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(tags)) END,
        payload
    FROM created
),

tagged AS (
    INSERT INTO trioqueue.job_tags (tag, seq)
    SELECT DISTINCT jsonb_array_elements_text(tags), seq FROM created WHERE tags IS NOT NULL
),

counted AS (
    INSERT INTO trioqueue.counter_changes (status, queue, type, change)
    SELECT 'pending', queue, type, count(*) FROM created GROUP BY queue, type
)

SELECT n, trioqueue.now() FROM created;
