SELECT started_at FROM attempts WHERE seq = :seq ORDER BY epoch DESC LIMIT 1;
