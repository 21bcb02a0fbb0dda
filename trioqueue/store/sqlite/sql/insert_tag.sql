INSERT INTO job_tags (tag, seq) VALUES (:tag, :seq) ON CONFLICT DO NOTHING;
