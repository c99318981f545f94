-- What a command that failed outside a transaction can leave in a shard's schema ($1): an index that is never used,
-- or a partition that is neither part of its table nor free of it.
SELECT c.relname
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND c.relnamespace = to_regnamespace($1)
  AND c.relkind = 'i'
UNION ALL
SELECT c.relname
FROM pg_inherits h
JOIN pg_class c ON c.oid = h.inhrelid
WHERE h.inhdetachpending AND c.relnamespace = to_regnamespace($1)
ORDER BY 1
