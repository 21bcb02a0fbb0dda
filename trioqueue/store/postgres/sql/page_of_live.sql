-- The primary key is in the order of seq: nearly all live jobs are pending, or processing ones are few.
SELECT seq FROM trioqueue.live AS live
WHERE status = %(status)s AND seq < %(before)s {filters}
