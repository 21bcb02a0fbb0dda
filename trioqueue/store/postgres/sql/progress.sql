-- Fenced.
UPDATE trioqueue.live AS live SET progress = %(progress)s, version = version + 1
FROM trioqueue.bodies AS bodies
WHERE bodies.id = %(id)s AND live.seq = bodies.seq AND live.status = 'processing' AND live.epoch = %(epoch)s
RETURNING live.seq;
