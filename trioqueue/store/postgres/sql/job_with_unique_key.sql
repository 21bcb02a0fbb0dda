-- The live job that has this key.
SELECT {job_columns} FROM trioqueue.jobs AS jobs
WHERE seq = (SELECT seq FROM trioqueue.live WHERE unique_key = %(unique_key)s);
