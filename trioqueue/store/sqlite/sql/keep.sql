-- Everything about a job that can change after it was accepted.
UPDATE jobs SET
    status = :status,
    due = :due,
    run_at = :run_at,
    attempt = :attempt,
    epoch = :epoch,
    version = :version,
    crash_count = :crash_count,
    node = :node,
    lease_until = :lease_until,
    started_at = :started_at,
    finished_at = :finished_at,
    cancel_requested_at = :cancel_requested_at,
    reason = :reason,
    progress = :progress,
    result = :result
WHERE seq = :seq;
