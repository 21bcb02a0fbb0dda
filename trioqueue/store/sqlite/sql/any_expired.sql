-- Whether a rescue has anything to do, asked without a write transaction.
SELECT 1 FROM jobs INDEXED BY jobs_leases
WHERE status = 'processing' AND lease_until <= :now
LIMIT 1;
