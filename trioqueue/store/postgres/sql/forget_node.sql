-- Not while it holds jobs: whoever rescues them wants to know whether it had been told to stop.
DELETE FROM trioqueue.nodes
WHERE node = %(node)s
    AND NOT EXISTS (
        SELECT FROM trioqueue.live AS live WHERE live.status = 'processing' AND live.node = %(node)s
    );
