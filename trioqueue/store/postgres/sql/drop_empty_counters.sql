DELETE FROM trioqueue.counters WHERE jobs = 0;
