-- The fence: the job, if this claim still holds it.
SELECT seq, {job_columns} FROM jobs
WHERE id = :id AND epoch = :epoch AND status = 'processing';
