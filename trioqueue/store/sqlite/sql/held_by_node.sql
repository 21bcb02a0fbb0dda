-- What a dead node still holds. Reads the leases of all nodes: few, and only after a death.
SELECT seq, {job_columns} FROM jobs INDEXED BY jobs_leases
WHERE status = 'processing' AND lease_until > :now AND node = :node
ORDER BY lease_until, seq
LIMIT :limit;
