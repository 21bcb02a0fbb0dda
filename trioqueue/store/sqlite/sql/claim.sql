UPDATE jobs SET
    status = 'processing',
    due = 0,
    epoch = epoch + 1,
    attempt = attempt + 1,
    version = version + 1,
    node = :node,
    lease_until = :lease_until,
    started_at = :now,
    progress = NULL
WHERE seq = :seq;
