-- What a command that failed outside a transaction can leave in a shard's schema ($1): an index that is never used,
-- or a partition that is neither part of its table nor free of it.
WITH relation AS (
    -- By what depends on the schema, of which there is an index; a server may have thousands of shards.
    SELECT objid AS oid FROM pg_depend
    WHERE refclassid = 'pg_namespace'::regclass AND refobjid = to_regnamespace($1) AND classid = 'pg_class'::regclass
)
SELECT c.relname
FROM relation
JOIN pg_index i ON i.indrelid = relation.oid
JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND c.relkind = 'i'
UNION ALL
SELECT c.relname
FROM relation
JOIN pg_inherits h ON h.inhrelid = relation.oid
JOIN pg_class c ON c.oid = relation.oid
WHERE h.inhdetachpending
ORDER BY 1
