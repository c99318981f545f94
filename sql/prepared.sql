-- Every prepared transaction of this database, whoever prepared it, with the schemas in which it holds locks: it keeps
-- those until it is finished, through any restart. Its locks have no process, and are found by the one on its own number.
SELECT p.gid, p.prepared, extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS age,
       array_remove(array_agg(DISTINCT n.nspname::text), NULL) AS schemas
FROM pg_prepared_xacts p
LEFT JOIN pg_locks own ON own.locktype = 'transactionid' AND own.transactionid = p.transaction
                      AND own.pid IS NULL AND own.granted
LEFT JOIN pg_locks l ON l.virtualtransaction = own.virtualtransaction AND l.pid IS NULL
                    AND l.locktype = 'relation'
LEFT JOIN pg_class c ON c.oid = l.relation
LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.database = current_database()
GROUP BY p.gid, p.prepared
ORDER BY p.prepared
