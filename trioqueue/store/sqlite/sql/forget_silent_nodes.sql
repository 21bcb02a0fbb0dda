-- Not while they hold jobs: whoever rescues them wants to know whether they had been told to stop.
DELETE FROM nodes
WHERE beat_at < :before
AND NOT EXISTS (
    SELECT 1 FROM jobs INDEXED BY jobs_leases WHERE status = 'processing' AND node = nodes.node
);
