-- The jobs with these ids, and the live jobs that have these unique keys.
SELECT {job_columns}
FROM (
    SELECT body.seq
    FROM
        unnest(%(ids)s::uuid[]) AS given (id),
        LATERAL (SELECT seq FROM trioqueue.bodies AS bodies WHERE bodies.id = given.id LIMIT 1) AS body
    UNION
    SELECT holder.seq
    FROM
        unnest(%(unique_keys)s::text[]) AS given (unique_key),
        LATERAL (
            SELECT seq FROM trioqueue.live AS live WHERE live.unique_key = given.unique_key LIMIT 1
        ) AS holder
) AS there
JOIN trioqueue.jobs AS jobs USING (seq);
