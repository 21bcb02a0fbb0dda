-- The live job that has this key; the condition repeats that of the index jobs_unique_key.
SELECT seq, {job_columns} FROM jobs
WHERE unique_key = :unique_key AND status IN ('pending', 'processing');
