SELECT seq, queue, type, tags FROM jobs INDEXED BY jobs_finished
WHERE status = :status AND finished_at <= :before
ORDER BY finished_at, seq
LIMIT :limit;
