SELECT {job_columns} FROM trioqueue.jobs AS jobs WHERE id = ANY (%(ids)s::uuid[]);
