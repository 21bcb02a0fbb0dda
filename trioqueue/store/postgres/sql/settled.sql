-- Which of these settlements have been recorded already: asked after an answer was lost.
SELECT input.n, {job_columns}
FROM unnest(
    %(n)s::integer[], %(id)s::uuid[], %(epoch)s::bigint[], %(outcome)s::text[], %(node)s::text[]
) AS input (n, id, epoch, outcome, node),
    LATERAL (SELECT seq FROM trioqueue.bodies AS bodies WHERE bodies.id = input.id LIMIT 1) AS body,
    LATERAL (
        SELECT * FROM trioqueue.attempts AS attempts
        WHERE attempts.seq = body.seq AND attempts.epoch = input.epoch
        LIMIT 1
    ) AS attempts,
    LATERAL (SELECT * FROM trioqueue.jobs AS jobs WHERE jobs.seq = body.seq LIMIT 1) AS jobs
WHERE attempts.outcome = input.outcome AND attempts.node = input.node AND attempts.worker IS NOT NULL;
