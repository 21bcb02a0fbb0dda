-- Whether a rescue has anything to do, asked without a write transaction: a lease that has expired,
-- or a silent node that nobody has to remember.
SELECT EXISTS (
    SELECT 1 FROM jobs INDEXED BY jobs_leases WHERE status = 'processing' AND lease_until <= :now
) OR EXISTS (
    SELECT 1 FROM nodes
    WHERE beat_at < :silent_before
    AND NOT EXISTS (
        SELECT 1 FROM jobs INDEXED BY jobs_leases WHERE status = 'processing' AND node = nodes.node
    )
);
