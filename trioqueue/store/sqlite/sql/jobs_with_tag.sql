-- A page of the jobs with one tag. CROSS JOIN keeps the tag's index on the outside: it is in the
-- order of seq, and only as many jobs are looked up as the page needs.
SELECT seq, {job_columns} FROM job_tags CROSS JOIN jobs USING (seq)
WHERE tag = :tag AND seq < :before {filters}
ORDER BY seq DESC
LIMIT :limit;
