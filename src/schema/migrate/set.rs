//! The migrations themselves: numbered SQL files, their order and their checksums.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::scan;
use crate::{Error, Result};

/// What a header comment that speaks to howdah starts with.
const DIRECTIVE: &str = "-- howdah:";

/// The number of a migration, from 1 to 9999; printed in four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigrationVersion(u16);

impl MigrationVersion {
    pub(super) fn new(number: u16) -> Self {
        Self(number)
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for MigrationVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

/// SQL files that bring every shard's schema from one version to the next: `0001_users.sql`, `0002_photos.sql`…
///
/// They run with `search_path` set to the shard's schema, then `public`, so they name tables plainly. Each runs in one
/// transaction, together with its entry in the schema's ledger (`howdah_migrations`), and so must not begin or end
/// one itself. A statement that refuses to run in a transaction, such as `CREATE INDEX CONCURRENTLY`, goes alone into
/// a file whose first line is `-- howdah: no-transaction`.
///
/// A file that was applied anywhere is never edited again: its checksum is in the ledger, and a shard with another
/// one is refused.
///
/// # Examples
///
/// ```
/// use howdah::Migrations;
///
/// let migrations = Migrations::new([
///     ("0001_photos.sql", "CREATE TABLE photos (id bigint PRIMARY KEY DEFAULT next_id())"),
///     ("0002_captions.sql", "ALTER TABLE photos ADD caption text NOT NULL DEFAULT ''"),
/// ])?;
/// assert_eq!(migrations.latest().to_string(), "0002");
/// # Ok::<(), howdah::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Migrations {
    /// In order, without gaps, from 1.
    pub(super) files: Vec<Migration>,
}

#[derive(Clone)]
pub(super) struct Migration {
    pub(super) version: MigrationVersion,
    /// The file's name.
    pub(super) name: String,
    pub(super) sql: Cow<'static, str>,
    pub(super) checksum: [u8; 32],
    pub(super) in_transaction: bool,
}

impl Migrations {
    /// Migrations that are part of the program, as pairs of a file's name and its SQL; in any order.
    ///
    /// # Errors
    ///
    /// When there is none, a name is not of the form `NNNN_name.sql`, a number is missing or there twice, a file begins or
    /// ends a transaction, or its header says something that howdah does not know.
    pub fn new<Name, Sql>(files: impl IntoIterator<Item = (Name, Sql)>) -> Result<Self>
    where
        Name: Into<String>,
        Sql: Into<Cow<'static, str>>,
    {
        let mut files = files
            .into_iter()
            .map(|(name, sql)| Migration::new(name.into(), sql.into()))
            .collect::<Result<Vec<_>>>()?;
        files.sort_by(|a, b| (a.version, &a.name).cmp(&(b.version, &b.name)));
        if files.is_empty() {
            return Err(
                Error::input("there are no migrations").hint("name files like 0001_users.sql")
            );
        }
        for (due, file) in (1..).zip(&files) {
            let due = MigrationVersion(due);
            if file.version > due {
                return Err(Error::input(format!(
                    "migration {due} is missing before {}",
                    file.name
                ))
                .hint("migrations are numbered from 0001 without gaps"));
            }
            if file.version < due {
                return Err(Error::input(format!("there are two migrations {}", file.version))
                    .hint(format!("give {} the next free number", file.name)));
            }
        }
        Ok(Self { files })
    }

    /// The migrations in a folder: its `.sql` files. Other files and folders in it are left alone.
    ///
    /// # Errors
    ///
    /// When the folder or a file in it cannot be read as text, and as [`Migrations::new`].
    pub fn from_dir(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let cannot_read = |path: &Path, error: std::io::Error| {
            Error::input(format!("{} cannot be read", path.display())).because(error)
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| cannot_read(folder, error))? {
            let path = entry.map_err(|error| cannot_read(folder, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.extension().is_some_and(|end| end == "sql") && !name.starts_with('.') {
                let sql = fs::read_to_string(&path).map_err(|error| cannot_read(&path, error))?;
                files.push((name, sql));
            }
        }
        if files.is_empty() {
            return Err(Error::input(format!("there are no migrations in {}", folder.display()))
                .hint("name files like 0001_users.sql"));
        }
        Self::new(files)
    }

    /// The version that a shard has when all of them were applied.
    #[must_use]
    pub fn latest(&self) -> MigrationVersion {
        self.files.last().map_or(MigrationVersion(0), |file| file.version)
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
    pub fn len(&self) -> usize {
        self.files.len()
    }
}

impl Migration {
    fn new(name: String, sql: Cow<'static, str>) -> Result<Self> {
        let refused = |why: String| Error::input(format!("migration {name}: {why}"));
        let version = version_of(&name).ok_or_else(|| {
            Error::input(format!("{name:?} is not a migration's name"))
                .hint("use four digits, _, and a-z 0-9 _ -, such as 0001_users.sql")
        })?;
        let in_transaction = match directive(&sql) {
            None => true,
            Some("no-transaction") => false,
            Some(other) => {
                return Err(refused(format!("its header says {other:?}"))
                    .hint(format!("the one thing to say is: {DIRECTIVE} no-transaction")));
            }
        };
        if let Some((line, command)) = scan::transaction_command(&sql) {
            return Err(refused(format!("line {line} says {command}"))
                .hint("howdah begins and ends the transaction of each file"));
        }
        Ok(Self { version, checksum: checksum(&sql), in_transaction, name, sql })
    }
}

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn version_of(name: &str) -> Option<MigrationVersion> {
    let (number, title) = name.strip_suffix(".sql")?.split_once('_')?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    let digits = number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit());
    let number = number.parse().ok().filter(|number| *number > 0)?;
    (digits && !title.is_empty() && title.chars().all(plain)).then_some(MigrationVersion(number))
}

/// What the comments before the first statement tell howdah.
fn directive(sql: &str) -> Option<&str> {
    sql.lines()
        .map(str::trim)
        .take_while(|line| line.is_empty() || line.starts_with("--"))
        .find_map(|line| line.strip_prefix(DIRECTIVE))
        .map(str::trim)
}

/// Line ends are left out of it: a checkout on another system may change them.
fn checksum(sql: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    for line in sql.lines() {
        digest.update(line);
        digest.update(b"\n");
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<const N: usize>(files: [(&'static str, &'static str); N]) -> String {
        let error = Migrations::new(files).unwrap_err();
        assert!(error.is_invalid_input(), "{error}");
        error.to_string()
    }

    #[test]
    fn files_are_put_in_order() {
        let set = Migrations::new([("0002_b.sql", "SELECT 2"), ("0001_a.sql", "SELECT 1")]);
        let set = set.unwrap();
        assert_eq!(format!("{:?}", set.files), "[0001_a.sql, 0002_b.sql]");
        assert_eq!((set.len(), set.latest().get()), (2, 2));
    }

    #[test]
    fn gaps_duplicates_and_odd_names_are_refused() {
        let none: [(&str, &str); 0] = [];
        assert!(refused(none).contains("no migrations"));
        assert!(refused([("0002_b.sql", "")]).contains("0001 is missing before 0002_b.sql"));
        assert!(refused([("0001_a.sql", ""), ("0003_c.sql", "")]).contains("0002 is missing"));
        assert!(refused([("0001_a.sql", ""), ("0001_b.sql", "")]).contains("two migrations 0001"));
        for name in [
            "1_a.sql",
            "00001_a.sql",
            "0001-a.sql",
            "0001_.sql",
            "0000_a.sql",
            "0001_A.sql",
            "+001_a.sql",
        ] {
            assert!(Migrations::new([(name, "")]).unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn the_header_may_ask_for_no_transaction_and_for_nothing_else() {
        let set = Migrations::new([
            ("0001_a.sql", "-- Why this is needed.\n\n-- howdah: no-transaction\nVACUUM t"),
            ("0002_b.sql", "SELECT 1;\n-- howdah: no-transaction"),
        ]);
        let set = set.unwrap();
        assert!(!set.files[0].in_transaction && set.files[1].in_transaction);
        assert!(refused([("0001_a.sql", "-- howdah: notransaction\n")]).contains("notransaction"));
    }

    #[test]
    fn a_file_does_not_handle_the_transaction_itself() {
        let message = refused([("0001_a.sql", "CREATE TABLE t ();\nCOMMIT;")]);
        assert!(
            message.contains("0001_a.sql") && message.contains("line 2 says COMMIT"),
            "{message}"
        );
    }

    #[test]
    fn the_checksum_ignores_line_ends_and_nothing_else() {
        assert_eq!(checksum("a\nb\n"), checksum("a\r\nb"));
        assert_ne!(checksum("a\nb"), checksum("a b"));
        assert_ne!(checksum("a\nb"), checksum("a\nB"));
    }
}
