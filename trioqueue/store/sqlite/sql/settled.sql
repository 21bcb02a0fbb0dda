-- The job of a settlement that has been recorded already: asked after an answer was lost. What a
-- rescuer recorded has no worker.
SELECT seq, {job_columns} FROM jobs
WHERE id = :id AND EXISTS (
    SELECT 1 FROM attempts
    WHERE attempts.seq = jobs.seq
    AND attempts.epoch = :epoch
    AND attempts.node = :node
    AND attempts.worker IS :worker
    AND attempts.outcome = :outcome
);
