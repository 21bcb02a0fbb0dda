INSERT INTO nodes (node, beat_at, stopping) VALUES (:node, :now, :stopping)
ON CONFLICT DO UPDATE SET beat_at = excluded.beat_at, stopping = max(stopping, excluded.stopping);
