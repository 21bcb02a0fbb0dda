SELECT {job_columns} FROM trioqueue.jobs AS jobs WHERE id = %(id)s;
