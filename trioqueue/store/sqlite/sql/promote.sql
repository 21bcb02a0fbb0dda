UPDATE jobs SET due = 1 WHERE seq = :seq;
