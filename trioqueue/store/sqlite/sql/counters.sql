SELECT queue, type, status, jobs FROM counters;
