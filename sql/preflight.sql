-- What keeps a shard's schema ($1) from being moved: one row a problem. $2 is the name of the guards.
--
-- What is in a schema is found by what depends on it, of which there is an index; of what is in it there is none, and a
-- server may have thousands of shards.
WITH space AS (
    SELECT oid FROM pg_namespace WHERE nspname = $1::text
), member AS (
    SELECT classid, objid FROM space JOIN pg_depend ON refclassid = 'pg_namespace'::regclass AND refobjid = space.oid
), relation AS (
    SELECT c.* FROM (
        SELECT objid FROM member WHERE classid = 'pg_class'::regclass
        UNION SELECT indexrelid FROM member JOIN pg_index ON indrelid = objid WHERE classid = 'pg_class'::regclass
        UNION SELECT typrelid FROM member JOIN pg_type t ON t.oid = objid AND typrelid <> 0 WHERE classid = 'pg_type'::regclass
    ) has (id) JOIN pg_class c ON c.oid = has.id
), type (oid, array_of) AS (
    SELECT t.oid, typarray FROM (
        SELECT objid FROM member WHERE classid = 'pg_type'::regclass
        UNION SELECT reltype FROM relation
    ) has (id) JOIN pg_type t ON t.oid = has.id
), inside (classid, objid) AS (
    -- Everything that is in the schema, or belongs to what is.
    SELECT classid, objid FROM member
    UNION SELECT 'pg_class'::regclass, oid FROM relation
    UNION SELECT 'pg_type'::regclass, oid FROM type
    UNION SELECT 'pg_type'::regclass, array_of FROM type
    UNION SELECT 'pg_attrdef'::regclass, d.oid FROM relation JOIN pg_attrdef d ON adrelid = relation.oid
    UNION SELECT 'pg_constraint'::regclass, k.oid FROM relation JOIN pg_constraint k ON conrelid = relation.oid
    UNION SELECT 'pg_constraint'::regclass, k.oid FROM type JOIN pg_constraint k ON conrelid = 0 AND contypid = type.oid
    UNION SELECT 'pg_trigger'::regclass, t.oid FROM relation JOIN pg_trigger t ON tgrelid = relation.oid
    UNION SELECT 'pg_rewrite'::regclass, r.oid FROM relation JOIN pg_rewrite r ON ev_class = relation.oid
    UNION SELECT 'pg_policy'::regclass, p.oid FROM relation JOIN pg_policy p ON polrelid = relation.oid
)
SELECT 'table ' || relname || ' has no primary key' FROM relation
WHERE relkind = 'r' AND relname <> 'howdah_move'
  AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = relation.oid AND i.indisprimary)
UNION ALL
-- Once published, such a table would refuse every UPDATE and DELETE at home.
SELECT 'table ' || relname || ' has a primary key that is ' || CASE WHEN indisvalid THEN 'deferrable' ELSE 'not valid' END ||
       ', and so no replica identity'
FROM relation JOIN pg_index ON indrelid = relation.oid AND indisprimary
WHERE relkind = 'r' AND relname <> 'howdah_move' AND NOT (indimmediate AND indisvalid)
UNION ALL
SELECT 'table ' || relname || ' is unlogged' FROM relation WHERE relkind IN ('r', 'p') AND relpersistence = 'u'
UNION ALL
SELECT CASE relkind WHEN 'm' THEN 'materialized view ' ELSE 'foreign table ' END || relname || ' cannot be replicated'
FROM relation WHERE relkind IN ('m', 'f')
UNION ALL
SELECT 'table ' || relname || ' has forced row level security, and ' || current_user || ' cannot read past it: BYPASSRLS'
FROM relation WHERE relforcerowsecurity
  AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls))
UNION ALL
SELECT 'table ' || relname || ' has a replica identity other than its primary key' FROM relation
WHERE relkind = 'r' AND relreplident <> 'd'
UNION ALL
SELECT 'table ' || relname || ' has the column ' || attname || ' of type ' || format_type(atttypid, NULL) ||
       ': large objects are not replicated'
FROM relation JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
WHERE relkind = 'r' AND (atttypid = 'oid'::regtype OR format_type(atttypid, NULL) ~ '(^|\.)lo$')
UNION ALL
SELECT relname || ' belongs to ' || pg_get_userbyid(relowner) || ', not to ' || current_user FROM relation
WHERE relkind IN ('r', 'p', 'v', 'S') AND pg_get_userbyid(relowner) <> current_user
UNION ALL
SELECT 'function ' || proname || ' belongs to ' || pg_get_userbyid(proowner) || ', not to ' || current_user
FROM member JOIN pg_proc p ON p.oid = objid AND classid = 'pg_proc'::regclass WHERE pg_get_userbyid(proowner) <> current_user
UNION ALL
SELECT 'trigger ' || tgname || ' of ' || relname || ' fires for replication too, so it would run twice'
FROM relation JOIN pg_trigger ON tgrelid = relation.oid WHERE NOT tgisinternal AND tgenabled IN ('R', 'A')
UNION ALL
SELECT 'table ' || relname || ' has the guard of a copy: this is not the shard''s home'
FROM relation JOIN pg_trigger ON tgrelid = relation.oid WHERE tgname = $2::text
UNION ALL
SELECT 'function ' || proname || ' is in the language ' || lanname || ' and names its schema, which changes'
FROM member JOIN pg_proc p ON p.oid = objid AND classid = 'pg_proc'::regclass JOIN pg_language l ON l.oid = prolang
WHERE lanname NOT IN ('sql', 'plpgsql') AND p.prosrc ~ ('\m' || $1::text || '\M')
UNION ALL
SELECT 'the subscription ' || subname || ' writes into table ' || relname
FROM relation JOIN pg_subscription_rel ON srrelid = relation.oid JOIN pg_subscription s ON s.oid = srsubid
UNION ALL
SELECT DISTINCT relname || ' is the howdah_move of another move' FROM relation WHERE relname = 'howdah_move'
UNION ALL
-- What is inside and needs what is outside. Functions, types and operators elsewhere are of no harm as long as the target
-- has them, and making the copy shows that; rows elsewhere do not come along.
SELECT DISTINCT format('%s depends on %s, which is not in the shard''s schema',
    pg_describe_object(d.classid, d.objid, 0), pg_describe_object(d.refclassid, d.refobjid, 0))
FROM inside i JOIN pg_depend d ON d.classid = i.classid AND d.objid = i.objid
JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
WHERE c.relnamespace NOT IN (SELECT oid FROM space) AND c.relkind NOT IN ('i', 'I')
  AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace, 'information_schema'::regnamespace)
UNION ALL
-- What is outside and needs what is inside: it is bound to it, and would go on with the old home.
SELECT DISTINCT format('%s depends on %s, and is not in the shard''s schema',
    pg_describe_object(d.classid, d.objid, 0), pg_describe_object(d.refclassid, d.refobjid, 0))
FROM inside i JOIN pg_depend d ON d.refclassid = i.classid AND d.refobjid = i.objid
WHERE NOT EXISTS (SELECT FROM inside o WHERE o.classid = d.classid AND o.objid = d.objid)
  AND NOT (d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM relation WHERE relkind IN ('i', 'I')))
  AND d.deptype IN ('n', 'a', 'P', 'S')
  AND d.classid NOT IN ('pg_publication_rel'::regclass, 'pg_publication_namespace'::regclass, 'pg_default_acl'::regclass,
                        'pg_init_privs'::regclass)
  AND NOT (d.classid = 'pg_class'::regclass AND 'pg_toast'::regnamespace = (SELECT relnamespace FROM pg_class WHERE oid = d.objid))
