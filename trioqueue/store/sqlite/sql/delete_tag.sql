DELETE FROM job_tags WHERE tag = :tag AND seq = :seq;
