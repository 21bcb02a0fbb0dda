SELECT seq FROM trioqueue.ended AS ended JOIN trioqueue.bodies AS bodies USING (seq)
WHERE status = %(status)s AND seq < %(before)s {filters}
