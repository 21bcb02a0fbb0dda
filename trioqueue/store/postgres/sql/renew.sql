-- Fenced one by one; returns those that were renewed.
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
        FOR UPDATE
    ) AS live
)

UPDATE trioqueue.live AS live SET
    lease_until = trioqueue.now() + make_interval(secs => %(lease_seconds)s),
    version = version + 1
FROM held
WHERE live.seq = held.seq AND live.seq = ANY (ARRAY(SELECT seq FROM held))
RETURNING held.n, live.cancel_requested_at IS NOT NULL;
