SELECT seq FROM trioqueue.bodies AS bodies
WHERE seq < %(before)s {filters}
