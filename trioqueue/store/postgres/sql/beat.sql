INSERT INTO trioqueue.nodes AS nodes (node, workers, types, started_at, seen_at, stopping)
VALUES (
    %(node)s, coalesce(%(workers)s, 0), CASE WHEN %(said)s THEN %(types)s::text[] ELSE '{}' END,
    trioqueue.now(), trioqueue.now(), %(stopping)s
)
ON CONFLICT (node) DO UPDATE SET
    seen_at = trioqueue.now(),
    stopping = nodes.stopping OR excluded.stopping,
    workers = CASE WHEN %(said)s THEN excluded.workers ELSE nodes.workers END,
    types = CASE WHEN %(said)s THEN excluded.types ELSE nodes.types END;
