-- What the nodes hold, the first claimed first.
SELECT
    live.node, bodies.id::text, live.type, live.queue, live.epoch, live.started_at, live.lease_until,
    live.cancel_requested_at IS NOT NULL
FROM trioqueue.live AS live JOIN trioqueue.bodies AS bodies USING (seq)
WHERE live.status = 'processing'
ORDER BY live.started_at, seq;
