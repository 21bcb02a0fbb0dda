-- Demo mode may not have a store that real handlers have served; everything else is allowed.
UPDATE trioqueue.meta SET purpose = CASE WHEN %(demo)s THEN 'demo' ELSE 'handlers' END
WHERE NOT %(demo)s OR purpose IS DISTINCT FROM 'handlers'
RETURNING purpose;
