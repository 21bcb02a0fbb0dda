-- Read and settled in one transaction: a lease that was renewed in time is not among these.
SELECT seq, {job_columns} FROM jobs INDEXED BY jobs_leases
WHERE status = 'processing' AND lease_until <= :now
ORDER BY lease_until, seq
LIMIT :limit;
