-- A page, newest first. The store puts `AND status = :status` and the like where {filters} stands;
-- an index on any of them is already in the order of seq, so nothing is sorted.
SELECT seq, {job_columns} FROM jobs
WHERE seq < :before {filters}
ORDER BY seq DESC
LIMIT :limit;
