-- Fenced one by one. For each claim: whether it was renewed, whether somebody asked the job to stop, and
-- whether it still holds the job, though its row is locked: by a transaction of somebody else's, which
-- must not keep the others from being renewed.
WITH known AS MATERIALIZED (
    SELECT body.seq, input.epoch, min(input.n) AS n
    FROM
        unnest(%(n)s::integer[], %(id)s::uuid[], %(epoch)s::bigint[]) AS input (n, id, epoch),
        LATERAL (SELECT seq FROM trioqueue.bodies AS bodies WHERE bodies.id = input.id LIMIT 1) AS body
    GROUP BY body.seq, input.epoch
    ORDER BY body.seq
),

held AS MATERIALIZED (
    SELECT known.seq, known.n
    FROM known, LATERAL (
        SELECT FROM trioqueue.live AS held
        WHERE held.seq = known.seq AND held.status = 'processing' AND held.epoch = known.epoch
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS live
),

renewed AS (
    UPDATE trioqueue.live AS live SET
        lease_until = trioqueue.now() + make_interval(secs => %(lease_seconds)s),
        version = version + 1
    FROM held
    WHERE live.seq = held.seq AND live.seq = ANY (ARRAY(SELECT seq FROM held))
    RETURNING held.n, live.cancel_requested_at IS NOT NULL AS asked
)

SELECT
    known.n,
    renewed.n IS NOT NULL,
    coalesce(renewed.asked, false),
    (
        SELECT true FROM trioqueue.live AS live
        WHERE live.seq = known.seq AND live.status = 'processing' AND live.epoch = known.epoch
        LIMIT 1
    ) IS TRUE
FROM known LEFT JOIN renewed ON renewed.n = known.n;
