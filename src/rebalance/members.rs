//! What is in a schema, in SQL.

/// The OIDs of what a catalog has in the schema `$1`, as an array: tables and whatever is called like them (but indexes and composite
/// types), functions, and so on.
///
/// No catalog has an index by schema, and a server may have thousands of shards. But what is in a schema depends on it, and of
/// that there is an index.
macro_rules! members {
    ($catalog:literal) => {
        concat!(
            "ARRAY(SELECT objid FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass \
             AND refobjid = to_regnamespace($1) AND classid = '",
            $catalog,
            "'::regclass)"
        )
    };
}

pub(super) use members;
