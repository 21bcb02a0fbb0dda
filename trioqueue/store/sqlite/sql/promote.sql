-- The jobs of one lane whose time has come become due: they enter the index that claims read. The
-- oldest first, and a bounded number, so that no claim pays for a million that come due together.
UPDATE jobs SET due = 1
WHERE seq IN (
    SELECT seq FROM jobs INDEXED BY jobs_waiting
    WHERE status = 'pending' AND queue = :queue AND type = :type AND due = 0 AND run_at <= :now
    ORDER BY run_at
    LIMIT :limit
);
