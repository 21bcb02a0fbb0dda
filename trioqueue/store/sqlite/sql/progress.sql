-- Fenced.
UPDATE jobs SET progress = :progress, version = version + 1
WHERE id = :id AND epoch = :epoch AND status = 'processing';
