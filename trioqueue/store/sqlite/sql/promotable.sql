-- The delayed jobs of one lane whose time has come, the oldest first. A claim makes them due before
-- it looks: then they are in the index that it reads. A bounded number, so that no claim pays for a
-- million that come due together.
SELECT seq FROM jobs INDEXED BY jobs_waiting
WHERE status = 'pending' AND queue = :queue AND type = :type AND due = 0 AND run_at <= :now
ORDER BY run_at
LIMIT :limit;
