SELECT number, epoch, node, worker, started_at, ended_at, outcome, error
FROM trioqueue.attempts
WHERE seq = (SELECT seq FROM trioqueue.bodies WHERE id = %(id)s)
ORDER BY epoch;
