DELETE FROM trioqueue.nodes AS nodes
WHERE seen_at < trioqueue.now() - make_interval(secs => %(silent_seconds)s)
    AND NOT EXISTS (
        SELECT FROM trioqueue.live AS live WHERE live.status = 'processing' AND live.node = nodes.node
    );
