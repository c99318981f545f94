-- Everything in a shard's schema ($1) but its rows: one line for each thing, with the schema's name left out, so that two
-- copies can be compared line by line. What is a mover's own is left out too, and so are the names and bounds that differ
-- between versions of PostgreSQL or between a home and its copy.
--
-- What is in a schema is found by what depends on it, of which there is an index; of what is in it there is none, and a
-- server may have thousands of shards.
WITH space AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname = $1::text
), member AS (
    SELECT classid, objid FROM space JOIN pg_depend ON refclassid = 'pg_namespace'::regclass AND refobjid = space.oid
), relation AS (
    SELECT c.* FROM (
        SELECT objid FROM member WHERE classid = 'pg_class'::regclass
        UNION ALL
        SELECT indexrelid FROM member JOIN pg_index ON indrelid = objid WHERE classid = 'pg_class'::regclass
        UNION ALL
        SELECT typrelid FROM member JOIN pg_type t ON t.oid = objid AND typrelid <> 0 WHERE classid = 'pg_type'::regclass
    ) has (id) JOIN pg_class c ON c.oid = has.id
    WHERE c.relname <> 'howdah_move' AND c.relname <> 'howdah_move_pkey'
), lines (what, name, text) AS (
    SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence'
               WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'type' END,
           relname::text,
           concat_ws(' ', relkind, relpersistence, pg_get_userbyid(relowner), relrowsecurity, relforcerowsecurity,
               relreplident, reloptions::text,
               (SELECT pg_get_partkeydef(relation.oid) WHERE relkind = 'p'), pg_get_expr(relpartbound, relation.oid))
    FROM relation WHERE relkind NOT IN ('i', 'I')
    UNION ALL
    SELECT 'column', relname || '.' || attname,
           concat_ws(' ', format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'not null' END,
               attidentity, attgenerated, attcollation::regcollation::text, attacl::text,
               CASE WHEN d.oid IS NOT NULL THEN 'default ' || pg_get_expr(d.adbin, d.adrelid) END)
    FROM relation JOIN pg_attribute a ON attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
    UNION ALL
    SELECT 'index', relname::text, concat_ws(' ', pg_get_indexdef(relation.oid), indisvalid)
    FROM relation JOIN pg_index ON indexrelid = relation.oid
    UNION ALL
    SELECT 'constraint', coalesce(r.relname || '.', '') || conname, concat_ws(' ', pg_get_constraintdef(k.oid), convalidated)
    FROM (
        SELECT oid, 0 FROM relation WHERE relkind NOT IN ('i', 'I')
        UNION ALL SELECT 0, objid FROM member WHERE classid = 'pg_type'::regclass
    ) of (relid, typid) JOIN pg_constraint k ON conrelid = relid AND contypid = typid LEFT JOIN relation r ON r.oid = conrelid
    -- NOT NULL is a constraint from 18 on; the columns say it on all versions.
    WHERE contype NOT IN ('n', 't')
    UNION ALL
    SELECT 'trigger', relname || '.' || tgname, concat_ws(' ', pg_get_triggerdef(t.oid), tgenabled)
    FROM relation JOIN pg_trigger t ON tgrelid = relation.oid
    WHERE NOT tgisinternal AND tgname <> 'howdah_guard'
    UNION ALL
    SELECT 'rule', relname || '.' || rulename, concat_ws(' ', ev_enabled, is_instead)
    FROM relation JOIN pg_rewrite w ON ev_class = relation.oid
    UNION ALL
    SELECT 'view definition', relname::text, pg_get_viewdef(relation.oid) FROM relation WHERE relkind IN ('v', 'm')
    UNION ALL
    SELECT 'policy', relname || '.' || polname,
           concat_ws(' ', polcmd, polpermissive, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid),
               (SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles WHERE pg_roles.oid = ANY (polroles)))
    FROM relation JOIN pg_policy ON polrelid = relation.oid
    UNION ALL
    SELECT 'statistics', stxname::text, pg_get_statisticsobjdef(x.oid) FROM member JOIN pg_statistic_ext x ON x.oid = objid AND classid = 'pg_statistic_ext'::regclass
    UNION ALL
    SELECT 'sequence', relname || ' by', concat_ws(' ', seqtypid::regtype, seqincrement, seqcache)
    FROM relation JOIN pg_sequence ON seqrelid = relation.oid
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text,
           concat_ws(' ', pg_get_userbyid(proowner), CASE WHEN prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) END)
    FROM member JOIN pg_proc p ON p.oid = objid AND classid = 'pg_proc'::regclass
    UNION ALL
    SELECT 'type', typname::text,
           concat_ws(' ', typtype, pg_get_userbyid(typowner), typnotnull, typdefault,
               CASE WHEN typbasetype <> 0 THEN format_type(typbasetype, typtypmod) END,
               (SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid))
    FROM member JOIN pg_type t ON t.oid = objid AND classid = 'pg_type'::regclass
    WHERE typtype IN ('e', 'd', 'r', 'm')
    UNION ALL
    -- Who may do what. The owner's own entry differs between versions.
    SELECT 'right', what || ' ' || name || ' of ' || grantee || ' to ' || privilege_type, CASE WHEN is_grantable THEN 'grantable' ELSE '' END
    FROM (
        SELECT 'on', relname::text, relowner, coalesce(relacl, acldefault((CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char", relowner))
        FROM relation WHERE relkind NOT IN ('i', 'I')
        UNION ALL SELECT 'on', p.oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner)) FROM member JOIN pg_proc p ON p.oid = objid AND classid = 'pg_proc'::regclass
        UNION ALL SELECT 'on', 'the schema', nspowner, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace n JOIN space USING (oid)
    ) granted (what, name, owner, acl)
    CROSS JOIN LATERAL (
        SELECT coalesce(nullif(pg_get_userbyid(a.grantee), 'unknown (OID=0)'), 'public') AS grantee, a.privilege_type, a.is_grantable
        FROM aclexplode(acl) a WHERE a.grantee <> owner AND a.privilege_type <> 'MAINTAIN'
    ) g
    UNION ALL
    SELECT 'default right', d.defaclobjtype::text,
           coalesce(nullif(pg_get_userbyid(a.grantee), 'unknown (OID=0)'), 'public') || ' ' || a.privilege_type
    FROM pg_default_acl d JOIN space ON defaclnamespace = space.oid CROSS JOIN LATERAL aclexplode(defaclacl) a
    WHERE a.grantee <> d.defaclrole
)
SELECT DISTINCT what, replace(name, $1::text || '.', '') AS name, replace(text, $1::text, '{shard}') AS text
FROM lines ORDER BY 1, 2, 3
