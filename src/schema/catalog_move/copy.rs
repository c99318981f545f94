//! The copy of the catalog: every row of every table, the numbers that were given out, and the proof that it is all there.

use std::pin::pin;

use futures_util::SinkExt as _;

use super::site::Site;
use crate::catalog::Signpost;
use crate::connect::statement_failure;
use crate::{Error, Result};

/// The tables, referenced ones first.
const TABLES: [&str; 6] = ["cluster", "instance", "home", "move", "move_step", "move_verified"];
const CANNOT: &str = "cannot copy the catalog";

/// Makes the copy in one transaction, in place of whatever an earlier move has left there, with a signpost back: it is not
/// the catalog yet. The caller lets nobody change the original meanwhile.
///
/// # Errors
///
/// When something goes wrong, or the copy is not equal; nothing is left of it then.
pub(super) async fn copy(
    from: &Site,
    to: &Site,
    instance: Option<&str>,
    back: &Signpost,
) -> Result<()> {
    const RAISE: &str = "UPDATE howdah.cluster SET map_version = map_version + 1";

    to.batch("BEGIN; DROP TABLE IF EXISTS howdah.signpost", CANNOT).await?;
    for table in TABLES.iter().rev() {
        to.batch(&format!("DROP TABLE IF EXISTS howdah.{table}"), CANNOT).await?;
    }
    to.batch(include_str!("../../../sql/catalog.sql"), CANNOT).await?;
    for table in TABLES {
        copy_table(from, to, table).await?;
    }
    copy_numbers(from, to).await?;
    to.batch(RAISE, CANNOT).await?;
    to.put_signpost(instance, back).await?;
    to.batch("COMMIT", CANNOT).await
}

async fn copy_table(from: &Site, to: &Site, table: &str) -> Result<()> {
    // In a table that was upgraded they stand in another order than in a new one.
    const COLUMNS: &str = "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute \
                           WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped";

    let failed = |error| statement_failure(error, CANNOT);
    let row = from.one(COLUMNS, &[&format!("howdah.{table}")], CANNOT).await?;
    let columns: &str = row.get(0);
    let read = format!("COPY howdah.{table} ({columns}) TO STDOUT");
    let write = format!("COPY howdah.{table} ({columns}) FROM STDIN");
    let rows = from.client.copy_out(&read).await.map_err(failed)?;
    let sink = to.client.copy_in(&write).await.map_err(failed)?;
    let (mut rows, mut sink) = (pin!(rows), pin!(sink));
    sink.send_all(&mut rows).await.map_err(failed)?;
    sink.finish().await.map_err(failed)?;

    let digests = format!(
        "SELECT count(*), md5(string_agg(digest, '' ORDER BY digest COLLATE \"C\")) \
         FROM (SELECT md5(ROW({columns})::text) AS digest FROM howdah.{table}) AS rows"
    );
    let digest = async |site: &Site| -> Result<(i64, Option<String>)> {
        let row = site.one(&digests, &[], "cannot compare the catalogs").await?;
        Ok((row.get(0), row.get(1)))
    };
    if digest(from).await? != digest(to).await? {
        return Err(Error::refused(format!("the copy of howdah.{table} is not equal"))
            .hint("the catalog stays where it is"));
    }
    Ok(())
}

/// The names of moves are given out once.
async fn copy_numbers(from: &Site, to: &Site) -> Result<()> {
    const GIVEN: &str = "SELECT relname::text, attname::text, \
            pg_sequence_last_value(pg_get_serial_sequence(format('howdah.%I', relname), attname)::regclass) \
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid \
        WHERE relnamespace = 'howdah'::regnamespace AND relkind = 'r' AND attidentity <> ''";
    const GIVE: &str =
        "SELECT setval(pg_get_serial_sequence(format('howdah.%I', $1::text), $2)::regclass, $3)";

    let failed = |error| statement_failure(error, CANNOT);
    for row in from.client.query(GIVEN, &[]).await.map_err(failed)? {
        let (table, column): (&str, &str) = (row.get(0), row.get(1));
        if let Some(last) = row.get::<_, Option<i64>>(2) {
            to.one(GIVE, &[&table, &column, &last], CANNOT).await?;
        }
    }
    Ok(())
}
