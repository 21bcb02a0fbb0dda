-- Which node holds the job under this epoch; no row when none does.
SELECT node FROM jobs
WHERE id = :id AND epoch = :epoch AND status = 'processing';
