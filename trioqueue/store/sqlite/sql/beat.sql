INSERT INTO nodes (node, beat_at) VALUES (:node, :now)
ON CONFLICT DO UPDATE SET beat_at = excluded.beat_at;
