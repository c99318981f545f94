//! A shard's schema as pg_dump writes it: what the copy is made of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures_util::try_join;
use tokio::process::Command;

use crate::config::Dsn;
use crate::connect::Connector;
use crate::{Error, Result};

/// Folders of distributions; `*` stands for any characters.
const DISTRIBUTIONS: [&str; 4] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
];

/// A program `pg_dump`, and its major version.
#[derive(Debug, Clone)]
pub(super) struct PgDump {
    program: PathBuf,
    major: i32,
}

/// One part of a dump of what comes after the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The OID of the constraint that it makes, if it makes one.
    constraint: Option<u32>,
    sql: String,
}

/// A dump of a schema without rows.
#[derive(Debug)]
pub(super) struct Dump {
    /// Everything that tables need before they have rows.
    pub(super) before: String,
    after: Vec<Part>,
}

impl PgDump {
    /// The first that is not older than the server: from the folder given, the folders given besides, `PATH`, or those
    /// of the distribution.
    pub(super) async fn find(
        named: Option<&Path>,
        besides: Option<PathBuf>,
        server_major: i32,
    ) -> Result<Self> {
        let mut folders: Vec<PathBuf> = Vec::new();
        match named {
            Some(folder) => folders.push(folder.to_owned()),
            None => {
                folders.extend(besides);
                let path = std::env::var_os("PATH").unwrap_or_default();
                folders.extend(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
                folders.extend(DISTRIBUTIONS.iter().flat_map(|pattern| matches(pattern)));
            }
        }
        let mut seen = BTreeSet::new();
        let mut looked = Vec::new();
        for folder in folders.into_iter().filter(|folder| seen.insert(folder.clone())) {
            let program = folder.join("pg_dump");
            if !program.is_file() {
                continue;
            }
            match major_of(&program).await {
                Some(major) if major >= server_major => return Ok(Self { program, major }),
                Some(major) => looked.push(format!("{} is {major}", program.display())),
                None => looked.push(format!("{} does not run", program.display())),
            }
        }
        if looked.is_empty() {
            looked.push("there is none".into());
        }
        Err(Error::config(format!(
            "moving a shard from PostgreSQL {server_major} takes a pg_dump that is not older: {}",
            looked.join(", ")
        ))
        .hint("install the client programs of that version, or name their folder in HOWDAH_PG_BIN"))
    }

    /// Dumps a schema for a server of a major version.
    pub(super) async fn schema(
        &self,
        connector: &Connector,
        dsn: &Dsn,
        schema: &str,
        for_major: i32,
    ) -> Result<Dump> {
        let (mut before, mut after) = try_join!(
            self.run(connector, dsn, schema, "pre-data"),
            self.run(connector, dsn, schema, "post-data")
        )?;
        if for_major < 17 && self.major >= 17 {
            for text in [&mut before, &mut after] {
                *text = text.replacen("SET transaction_timeout = 0;\n", "", 1);
            }
        }
        Ok(Dump { before, after: parts(&after) })
    }

    async fn run(
        &self,
        connector: &Connector,
        dsn: &Dsn,
        schema: &str,
        section: &str,
    ) -> Result<String> {
        let failed =
            || Error::system(format!("cannot dump {schema} with {}", self.program.display()));
        let access = connector.libpq(dsn)?;
        let mut dump = Command::new(&self.program);
        dump.arg("--dbname").arg(&access.conninfo);
        // Verbose for the comments that say where a part begins.
        dump.args(["--schema-only", "--verbose", "--no-publications", "--no-subscriptions"]);
        dump.args(["--no-tablespaces", "--lock-wait-timeout=60s", "--section", section]);
        dump.args(["--schema", schema]);
        dump.envs(access.environment).env("PGAPPNAME", "howdah");
        dump.stdin(Stdio::null()).kill_on_drop(true);
        let output = dump.output().await.map_err(|error| failed().because(error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().rev().find(|line| line.contains("error:"));
            return Err(failed().because(line.unwrap_or("it ended without a word").to_owned()));
        }
        let text = String::from_utf8(output.stdout).map_err(|error| failed().because(error))?;
        Ok(without_commands(&text))
    }
}

impl Dump {
    /// The SQL of these constraints, and that of all the rest.
    pub(super) fn split(&self, constraints: &[u32]) -> (String, String) {
        let is_one_of = |part: &Part| part.constraint.is_some_and(|oid| constraints.contains(&oid));
        let sql = |wanted: bool| {
            let parts = self.after.iter().filter(|part| is_one_of(part) == wanted);
            parts.map(|part| part.sql.as_str()).collect::<String>()
        };
        (sql(true), sql(false))
    }
}

/// Without the lines that only psql understands: `\restrict` and its end, with a key that was drawn for them.
fn without_commands(text: &str) -> String {
    let key = text.lines().find_map(|line| line.strip_prefix("\\restrict "));
    let Some(key) = key else { return text.to_owned() };
    let (begin, end) = (format!("\\restrict {key}"), format!("\\unrestrict {key}"));
    let lines = text.lines().filter(|line| *line != begin && *line != end);
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Cuts a dump where the comments of pg_dump say that something else begins.
fn parts(text: &str) -> Vec<Part> {
    const ENTRY: &str = "-- TOC entry ";
    /// The OID of pg_constraint, which is the same everywhere.
    const CONSTRAINT: &str = "(class 2606 OID ";

    let mut parts = vec![Part { constraint: None, sql: String::new() }];
    for line in text.lines() {
        if line.starts_with(ENTRY) {
            let oid = line.split_once(CONSTRAINT).and_then(|(_, oid)| oid.strip_suffix(')'));
            let constraint = oid.and_then(|oid| oid.parse().ok());
            parts.push(Part { constraint, sql: String::new() });
        }
        if let Some(part) = parts.last_mut() {
            part.sql.push_str(line);
            part.sql.push('\n');
        }
    }
    parts
}

async fn major_of(program: &Path) -> Option<i32> {
    let mut version = Command::new(program);
    version.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = version.output().await.ok().filter(|output| output.status.success())?;
    // pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
    let said = String::from_utf8(output.stdout).ok()?;
    let (_, version) = said.split_once("(PostgreSQL) ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The folders that match a pattern with one `*`, in no order that matters.
fn matches(pattern: &str) -> Vec<PathBuf> {
    let (before, after) = pattern.split_once('*').unwrap_or((pattern, ""));
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let found = names.filter(|name| name.starts_with(prefix));
    found.map(|name| PathBuf::from(format!("{parent}/{name}{after}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_cut_where_its_comments_say_so() {
        let text = "SET x = 0;\n\n--\n-- TOC entry 3403 (class 2606 OID 16391)\n-- Name: a a_pkey; Type: CONSTRAINT\n--\n\n\
                    ALTER TABLE a ADD PRIMARY KEY (id);\n\n\n--\n-- TOC entry 3404 (class 1259 OID 16400)\n--\n\nCREATE INDEX i;\n";
        let dump = Dump { before: String::new(), after: parts(text) };
        let (keys, rest) = dump.split(&[16391]);
        assert!(keys.contains("ADD PRIMARY KEY") && !keys.contains("CREATE INDEX"));
        assert!(rest.starts_with("SET x") && rest.contains("CREATE INDEX"));
        assert!(!rest.contains("PRIMARY"));
    }

    #[test]
    fn commands_for_psql_are_left_out_and_what_looks_like_them_stays() {
        let text = "\\restrict abc\nSELECT 1;\n\\restrict other\n\\unrestrict abc\n";
        assert_eq!(without_commands(text), "SELECT 1;\n\\restrict other\n");
        assert_eq!(without_commands("SELECT 1;\n"), "SELECT 1;\n");
    }
}
