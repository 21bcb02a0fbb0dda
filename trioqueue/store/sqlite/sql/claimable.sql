-- The due jobs of one lane in the order of claims. Read lazily: the claim merges its lanes and
-- stops when it has enough.
--
-- One index over all types would need no merging, but a node would then walk past every due job
-- whose type it does not know, at every claim. With lanes it never sees them.
SELECT seq, {job_columns} FROM jobs INDEXED BY jobs_due
WHERE due = 1 AND queue = :queue AND type = :type
ORDER BY priority, run_at, seq;
