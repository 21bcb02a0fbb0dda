DELETE FROM attempts WHERE seq = :seq;
