-- The first lease to end, the first deadline of a pending job, and by status the first end of a job.
SELECT
    (SELECT min(lease_until) FROM jobs INDEXED BY jobs_leases WHERE status = 'processing'),
    (
        SELECT min(deadline_at) FROM jobs INDEXED BY jobs_deadlines
        WHERE status = 'pending' AND deadline_at IS NOT NULL
    ),
    (
        SELECT min(finished_at) FROM jobs INDEXED BY jobs_finished
        WHERE status = 'completed' AND finished_at IS NOT NULL
    ),
    (
        SELECT min(finished_at) FROM jobs INDEXED BY jobs_finished
        WHERE status = 'cancelled' AND finished_at IS NOT NULL
    ),
    (
        SELECT min(finished_at) FROM jobs INDEXED BY jobs_finished
        WHERE status = 'dead' AND finished_at IS NOT NULL
    );
