-- A page, newest first. The store puts the query of the page's seqs where {page} stands: from the
-- table that has an index for the filter, in the order of seq.
SELECT seq, {job_columns}
FROM ({page} ORDER BY seq DESC LIMIT %(limit)s) AS page
JOIN trioqueue.jobs AS jobs USING (seq)
ORDER BY seq DESC;
