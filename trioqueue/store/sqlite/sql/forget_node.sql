-- Not while it holds jobs: whoever rescues them wants to know whether it had been told to stop.
DELETE FROM nodes
WHERE node = :node AND NOT EXISTS (SELECT 1 FROM jobs WHERE status = 'processing' AND node = :node);
