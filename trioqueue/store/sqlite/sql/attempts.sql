SELECT {attempt_columns} FROM attempts
WHERE seq = (SELECT seq FROM jobs WHERE id = :id)
ORDER BY epoch;
