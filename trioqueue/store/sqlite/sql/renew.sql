-- Fenced. Only numbers of the same length change, so SQLite rewrites no payload.
UPDATE jobs SET lease_until = :lease_until, version = version + 1
WHERE id = :id AND epoch = :epoch AND status = 'processing'
RETURNING cancel_requested_at;
