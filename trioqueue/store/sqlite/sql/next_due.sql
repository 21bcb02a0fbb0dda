-- For every lane with pending jobs: since when its first one waits, and when the next comes due.
SELECT
    type,
    (
        SELECT min(run_at) FROM jobs INDEXED BY jobs_waiting
        WHERE status = 'pending' AND queue = lane.queue AND type = lane.type AND due = 1
    ),
    (
        SELECT min(run_at) FROM jobs INDEXED BY jobs_waiting
        WHERE status = 'pending' AND queue = lane.queue AND type = lane.type AND due = 0
    )
FROM counters AS lane
WHERE status = 'pending';
