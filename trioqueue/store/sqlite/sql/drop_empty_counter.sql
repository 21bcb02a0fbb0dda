DELETE FROM counters WHERE status = :status AND queue = :queue AND type = :type AND jobs = 0;
