-- What the jobs of this store are for; NULL as long as no node has said so. See dedicate.sql.
SELECT purpose FROM meta;
