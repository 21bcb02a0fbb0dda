-- Pending jobs whose deadline has come, the earliest first.
SELECT seq, {job_columns} FROM jobs INDEXED BY jobs_deadlines
WHERE status = 'pending' AND deadline_at IS NOT NULL AND deadline_at <= :now
ORDER BY deadline_at, seq
LIMIT :limit;
