INSERT INTO counters (status, queue, type, jobs) VALUES (:status, :queue, :type, :change)
ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs;
