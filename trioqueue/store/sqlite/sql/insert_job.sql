-- Nothing happens when the id or a live job's unique_key is there already.
INSERT INTO jobs ({job_columns}, due)
VALUES ({job_values}, ?)
ON CONFLICT DO NOTHING;
