-- Demo mode may not have a store that real handlers have served; everything else is allowed.
UPDATE meta SET purpose = iif(:demo, 'demo', 'handlers')
WHERE NOT :demo OR purpose IS NOT 'handlers';
