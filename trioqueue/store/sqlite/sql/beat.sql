-- What the node has said before stays when it says nothing of itself now; that it stops stays for good.
INSERT INTO nodes (node, started_at, beat_at, stopping, workers, types)
VALUES (:node, :now, :now, :stopping, :workers, :types)
ON CONFLICT DO UPDATE SET
    beat_at = excluded.beat_at,
    stopping = max(stopping, excluded.stopping),
    workers = iif(:has_facts, excluded.workers, workers),
    types = iif(:has_facts, excluded.types, types);
