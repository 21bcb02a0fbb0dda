SELECT seq, {job_columns} FROM jobs WHERE id = :id;
