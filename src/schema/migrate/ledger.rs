//! A shard's ledger: what was applied to it, held against the files.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::set::{Migration, MigrationVersion, Migrations};
use crate::connect::statement_failure;
use crate::error::Kind;
use crate::shard::Home;
use crate::{Error, Result};

/// The entries of a shard's ledger, in order.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    exists: bool,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    version: MigrationVersion,
    name: String,
    checksum: Vec<u8>,
    /// Whether it was seen to end.
    is_whole: bool,
}

impl Ledger {
    /// Reads a shard's ledger, which need not exist.
    ///
    /// # Errors
    ///
    /// When the shard's schema is not there: it has moved since the map was read.
    pub(super) async fn read(client: &Client, home: &Home) -> Result<Self> {
        const IS_THERE: &str = "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($1 || '.howdah_migrations') IS NOT NULL";

        let failed = |error| statement_failure(error, "cannot read the ledger");
        let schema = home.schema();
        let row =
            client.query_typed_one(IS_THERE, &[(&schema, Type::TEXT)]).await.map_err(failed)?;
        if !row.get::<_, bool>(0) {
            return Err(Error::new(Kind::StaleHome, format!("there is no schema {schema}"))
                .hint("the shard has moved, or is still to be made by `howdah init`"));
        }
        if !row.get::<_, bool>(1) {
            return Ok(Self::default());
        }
        let entries = format!(
            "SELECT version, name, checksum, applied_at IS NOT NULL FROM {schema}.howdah_migrations \
             ORDER BY version"
        );
        let rows = client.query_typed(&entries, &[]).await.map_err(failed)?;
        let entry = |row: &tokio_postgres::Row| {
            let version = u16::try_from(row.get::<_, i32>(0)).map_err(|_| {
                Error::refused(format!("the ledger has a migration {}", row.get::<_, i32>(0)))
            })?;
            Ok(Entry {
                version: MigrationVersion::new(version),
                name: row.get(1),
                checksum: row.get(2),
                is_whole: row.get(3),
            })
        };
        Ok(Self { exists: true, entries: rows.iter().map(entry).collect::<Result<_>>()? })
    }

    /// Makes the ledger where there is none.
    pub(super) async fn create(&self, client: &Client, home: &Home) -> Result<()> {
        if self.exists {
            return Ok(());
        }
        let sql = include_str!("../../../sql/ledger.sql").replace("{shard}", &home.schema());
        client
            .batch_execute(&sql)
            .await
            .map_err(|error| statement_failure(error, "cannot make the ledger"))
    }

    /// The newest migration that was applied in full.
    pub(super) fn version(&self) -> Option<MigrationVersion> {
        self.entries.iter().filter(|entry| entry.is_whole).map(|entry| entry.version).max()
    }

    /// The migrations that are still to be applied.
    ///
    /// # Errors
    ///
    /// When what was applied is not what the files say.
    pub(super) fn missing<'a>(&self, set: &'a Migrations) -> Result<&'a [Migration]> {
        for (due, entry) in (1..).map(MigrationVersion::new).zip(&self.entries) {
            if entry.version != due {
                return Err(Error::refused(format!(
                    "{} was applied and {due} was not",
                    entry.name
                ))
                .hint("the ledger was changed by hand: mend it"));
            }
            let Some(file) = set.files.get(usize::from(due.get()) - 1) else {
                return Err(Error::refused(format!("{} was applied and is no more", entry.name))
                    .hint("migrate with the newest files"));
            };
            if file.checksum != *entry.checksum {
                return Err(Error::refused(format!(
                    "{} was edited after it was applied",
                    file.name
                ))
                .hint("restore the file, and put the change into a new one"));
            }
            if !entry.is_whole {
                return Err(Error::refused(format!("{} began and was not seen to end", file.name))
                    .hint(format!(
                        "undo what is left of it, delete version {} from howdah_migrations there, and run this again",
                        due.get()
                    )));
            }
        }
        Ok(set.files.get(self.entries.len()..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Migrations {
        Migrations::new([("0001_a.sql", "SELECT 1"), ("0002_b.sql", "SELECT 2")]).unwrap()
    }

    fn entry(file: &Migration) -> Entry {
        Entry {
            version: file.version,
            name: file.name.clone(),
            checksum: file.checksum.to_vec(),
            is_whole: true,
        }
    }

    fn ledger(set: &Migrations) -> Ledger {
        Ledger { exists: true, entries: set.files.iter().map(entry).collect() }
    }

    #[test]
    fn what_is_missing_comes_after_what_is_there() {
        let set = set();
        assert_eq!(Ledger::default().missing(&set).unwrap().len(), 2);
        let mut ledger = ledger(&set);
        assert!(ledger.missing(&set).unwrap().is_empty());
        assert_eq!(ledger.version().unwrap().get(), 2);
        ledger.entries.pop();
        assert_eq!(ledger.missing(&set).unwrap()[0].name, "0002_b.sql");
    }

    #[test]
    fn a_ledger_that_does_not_fit_the_files_is_refused() {
        let set = set();
        let refused = |change: fn(&mut Ledger)| {
            let mut ledger = ledger(&set);
            change(&mut ledger);
            let error = ledger.missing(&set).unwrap_err();
            assert!(error.is_refused());
            error.to_string()
        };
        assert!(refused(|l| l.entries[1].checksum[0] ^= 1).contains("0002_b.sql was edited"));
        assert!(refused(|l| l.entries[1].is_whole = false).contains("0002_b.sql began"));
        assert!(refused(|l| drop(l.entries.remove(0))).contains("0001 was not"));
        assert!(
            refused(|ledger| {
                let checksum = vec![0; 32];
                let version = MigrationVersion::new(3);
                let name = "0003_c.sql".into();
                ledger.entries.push(Entry { version, name, checksum, is_whole: true });
            })
            .contains("0003_c.sql was applied and is no more")
        );
    }
}
