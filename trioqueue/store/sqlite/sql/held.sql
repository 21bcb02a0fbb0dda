-- The fence: what may have changed about a claim's job, if the claim still holds it. Nothing else
-- can change while a job is processing, so the large columns need not be read again.
SELECT seq, version, lease_until, cancel_requested_at, progress FROM jobs
WHERE id = :id AND epoch = :epoch AND status = 'processing';
