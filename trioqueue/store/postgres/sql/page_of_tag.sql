SELECT seq FROM trioqueue.job_tags AS job_tags JOIN trioqueue.jobs AS jobs USING (seq)
WHERE tag = %(tag)s AND seq < %(before)s {filters}
