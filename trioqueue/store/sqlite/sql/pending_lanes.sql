-- A lane is one type in one queue. The counters know which lanes have pending jobs.
SELECT queue, type FROM counters WHERE status = 'pending';
