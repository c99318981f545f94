//! A shard's schema as pg_dump writes it: what the copy is made of.
//!
//! pg_dump reads the catalogs of the whole database, however little is asked of it. So shards share its runs: what is asked for
//! while one goes on is answered by the next, and so are those that are expected to move soon.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::process::Command;
use tokio::sync::{Mutex as Turn, oneshot};
use tokio_postgres::SimpleQueryRow;

use super::names::MARK_TABLE;
use super::programs::Programs;
use super::side::Side;
use crate::connect::{Connector, Role};
use crate::shard::InstanceName;
use crate::{Error, Result};

/// What pg_dump makes after the rows, by the types that it tells. It sorts everything: nothing that comes before the rows stands
/// behind the first of these.
const AFTER_ROWS: [&str; 11] = [
    "CHECK CONSTRAINT",
    "CONSTRAINT",
    "EVENT TRIGGER",
    "FK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "POLICY",
    "ROW SECURITY",
    "RULE",
    "STATISTICS",
    "TRIGGER",
];

/// How many dumps are made ahead at once.
const MOST_AHEAD: usize = 64;

/// A dump of one schema without rows.
#[derive(Debug)]
pub(super) struct Dump {
    /// Everything that tables need before they have rows.
    before: String,
    after: Vec<Part>,
}

/// One part of what comes after the rows.
#[derive(Debug)]
struct Part {
    /// The OID of the constraint that it makes, if it makes one.
    constraint: Option<u32>,
    sql: String,
}

/// What is dumped: a schema of an instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) instance: InstanceName,
    pub(super) schema: String,
}

/// The dumps that are wanted.
#[derive(Debug, Default)]
pub(super) struct Dumps {
    asked: Mutex<Asked>,
    turn: Turn<()>,
}

#[derive(Debug, Default)]
struct Asked {
    waiting: Vec<(Wanted, oneshot::Sender<Result<Dump>>)>,
    expected: BTreeSet<Wanted>,
    /// Those that were expected and made, each with the ledger that the shard had before.
    ahead: BTreeMap<Wanted, (Option<String>, Dump)>,
}

impl Dumps {
    /// These are wanted soon.
    pub(super) fn expect(&self, expected: impl IntoIterator<Item = Wanted>) {
        self.asked().expected.extend(expected);
    }

    /// Nothing is wanted any more.
    pub(super) fn clear(&self) {
        *self.asked() = Asked::default();
    }

    /// Dumps a schema that no migration changes from now on.
    pub(super) async fn make(
        &self,
        programs: &Programs,
        connector: &Connector,
        from: &Side,
        schema: &str,
    ) -> Result<Dump> {
        let wanted = Wanted { instance: from.name.clone(), schema: schema.to_owned() };
        loop {
            let (tell, mut told) = oneshot::channel();
            {
                let mut asked = self.asked();
                asked.expected.remove(&wanted);
                asked.waiting.push((wanted.clone(), tell));
            }
            let told = tokio::select! {
                biased;
                told = &mut told => told,
                _turn = self.turn.lock() => {
                    if let Some(dump) = self.made_ahead(from, &wanted).await? {
                        return Ok(dump);
                    }
                    self.answer(programs, connector, from).await;
                    told.await
                }
            };
            // Another may have taken it along, and have been dropped before it was made.
            if let Ok(dump) = told {
                return dump;
            }
        }
    }

    /// A dump that was made ahead, if no migration has been applied since.
    async fn made_ahead(&self, from: &Side, wanted: &Wanted) -> Result<Option<Dump>> {
        let ahead = self.asked().ahead.remove(wanted);
        let Some((ledger, dump)) = ahead else { return Ok(None) };
        let now = ledgers(from, std::slice::from_ref(&wanted.schema)).await?.remove(&wanted.schema);
        Ok((now == ledger).then_some(dump))
    }

    /// Makes what is wanted and expected of a server.
    async fn answer(&self, programs: &Programs, connector: &Connector, from: &Side) {
        let (waiting, ahead): (Vec<_>, Vec<_>) = {
            let mut asked = self.asked();
            asked.waiting.retain(|(_, tell)| !tell.is_closed());
            let is_here = |wanted: &Wanted| wanted.instance == from.name;
            let waiting = asked.waiting.extract_if(.., |(wanted, _)| is_here(wanted)).collect();
            let ahead = asked.expected.iter().filter(|wanted| is_here(wanted)).take(MOST_AHEAD);
            let ahead: Vec<_> = ahead.cloned().collect();
            asked.expected.retain(|wanted| !ahead.contains(wanted));
            (waiting, ahead)
        };
        let expected: Vec<String> = ahead.iter().map(|wanted| wanted.schema.clone()).collect();
        // Whichever of them has gone, nobody waits for it.
        let ledgers = ledgers(from, &expected).await;
        let ahead = if ledgers.is_ok() { ahead } else { Vec::new() };
        let mut ledgers = ledgers.unwrap_or_default();
        let schemas: Vec<String> = waiting
            .iter()
            .map(|(wanted, _)| wanted)
            .chain(&ahead)
            .map(|wanted| wanted.schema.clone())
            .collect();
        if schemas.is_empty() {
            return;
        }
        // Where one of several could not be dumped, those that are waited for are tried one by one.
        let together = run(programs, connector, from, &schemas).await;
        let mut made = together.unwrap_or_default();
        for (wanted, tell) in waiting {
            let dump = match made.remove(&wanted.schema) {
                Some(dump) => Ok(dump),
                None => alone(programs, connector, from, wanted.schema).await,
            };
            // Who does not want it any more has gone.
            let _ = tell.send(dump);
        }
        let mut asked = self.asked();
        for wanted in ahead {
            if let Some(dump) = made.remove(&wanted.schema) {
                let ledger = ledgers.remove(&wanted.schema);
                asked.ahead.insert(wanted, (ledger, dump));
            }
        }
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the ledgers of some schemas say was applied to them; nothing of those that have none.
async fn ledgers(from: &Side, schemas: &[String]) -> Result<BTreeMap<String, String>> {
    const HAVE_ONE: &str = "SELECT n.nspname::text FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid \
        WHERE n.nspname = ANY ($1) AND c.relname = 'howdah_migrations'";
    const WHAT: &str = "cannot read the shards' ledgers";

    let have_one = from.work.rows(HAVE_ONE, &[&schemas], WHAT).await?;
    let ledger = |row: &tokio_postgres::Row| {
        let schema: &str = row.get(0);
        format!(
            "SELECT '{schema}', md5(string_agg(l::text, ',' ORDER BY l.version)) FROM {schema}.howdah_migrations l"
        )
    };
    let ledgers: Vec<_> = have_one.iter().map(ledger).collect();
    if ledgers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = from.work.batch_rows(&ledgers.join(" UNION ALL "), WHAT).await?;
    let text = |row: &SimpleQueryRow, column| row.get(column).unwrap_or_default().to_owned();
    Ok(rows.iter().map(|row| (text(row, 0), text(row, 1))).collect())
}

/// Dumps one schema by itself.
async fn alone(
    programs: &Programs,
    connector: &Connector,
    from: &Side,
    schema: String,
) -> Result<Dump> {
    let mut made = run(programs, connector, from, std::slice::from_ref(&schema)).await?;
    let none = || Error::system(format!("pg_dump found no {schema}")).at(&from.name);
    made.remove(&schema).ok_or_else(none)
}

/// Dumps schemas of one server, those that are there.
async fn run(
    programs: &Programs,
    connector: &Connector,
    from: &Side,
    schemas: &[String],
) -> Result<BTreeMap<String, Dump>> {
    let program = programs.pg_dump();
    let failed =
        || Error::system(format!("cannot dump {} with {}", schemas.join(", "), program.display()));
    let access = connector.libpq(&from.dsn, Role::Owner)?;
    let mut dump = Command::new(&program);
    dump.arg("--dbname").arg(&access.conninfo);
    // Verbose for the comments that say where a part begins.
    dump.args(["--schema-only", "--verbose", "--no-publications", "--no-subscriptions"]);
    dump.arg(format!("--exclude-table=*.{MARK_TABLE}"));
    dump.args(["--no-tablespaces", "--lock-wait-timeout=60s", "--encoding=UTF8"]);
    dump.args(schemas.iter().flat_map(|schema| ["--schema", schema.as_str()]));
    access.lead(&mut dump);
    dump.stdin(Stdio::null()).kill_on_drop(true);
    let output = dump.output().await.map_err(|error| failed().because(error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().rev().find(|line| line.contains("error:"));
        return Err(failed().because(line.unwrap_or("it ended without a word").to_owned()));
    }
    let text = String::from_utf8(output.stdout).map_err(|error| failed().because(error))?;
    let dumps = cut(&without_commands(&text), schemas);
    Ok(dumps.into_iter().filter(|(_, dump)| dump.before.contains("CREATE SCHEMA ")).collect())
}

impl Dump {
    /// Everything that tables need before they have rows, for a server of a major version.
    pub(super) fn before(&self, major: i32) -> String {
        if major < 17 {
            self.before.replacen("SET transaction_timeout = 0;\n", "", 1)
        } else {
            self.before.clone()
        }
    }

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

/// The beginning of the comment that stands before each thing.
const ENTRY: &str = "-- TOC entry ";
/// The OID of pg_constraint, which is the same everywhere.
const CONSTRAINT: &str = "(class 2606 OID ";

/// A thing in a dump.
struct Entry<'a> {
    schema: &'a str,
    /// What it is, in the words of pg_dump.
    kind: &'a str,
    text: &'a str,
}

/// Cuts a dump where the comments of pg_dump say that something else begins, and gives each schema what is its.
fn cut(text: &str, schemas: &[String]) -> BTreeMap<String, Dump> {
    let (preamble, entries) = entries(text, schemas);
    let new =
        |schema: &String| (schema.clone(), Dump { before: preamble.to_owned(), after: Vec::new() });
    let mut dumps: BTreeMap<String, Dump> = schemas.iter().map(new).collect();
    let mut is_after = false;
    // What new tables are like is told where it changes, and that may be in another schema's part.
    let mut settings = String::new();
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for Entry { schema, kind, text } in entries {
        let (text, changes) = without_settings_at_the_end(text);
        is_after |= AFTER_ROWS.contains(&kind);
        if let Some(dump) = dumps.get_mut(schema) {
            if is_after {
                dump.after.push(Part { constraint: constraint(text), sql: text.to_owned() });
            } else {
                let told = told.entry(schema).or_default();
                dump.before.push_str(&settings[*told..]);
                *told = settings.len();
                dump.before.push_str(text);
            }
        }
        settings.push_str(&changes);
    }
    dumps
}

/// A dump up to its first entry, and its entries. Each belongs to one of the schemas: what seems to begin and says otherwise
/// is a part of something, such as the body of a function.
fn entries<'a>(text: &'a str, schemas: &[String]) -> (&'a str, Vec<Entry<'a>>) {
    let marks = text.match_indices(ENTRY).map(|(at, _)| at);
    let begins = marks.filter(|at| text[..*at].ends_with("\n--\n"));
    let described = begins.filter_map(|at| Some((at, kind_and_schema(&text[at..])?)));
    let described: Vec<_> = described
        .filter(|(_, (_, schema))| schemas.iter().any(|wanted| wanted == schema))
        .collect();
    let ends = described.iter().skip(1).map(|(at, _)| *at).chain([text.len()]);
    let entries = described.iter().zip(ends).map(|((at, (kind, schema)), end)| Entry {
        schema,
        kind,
        text: &text[*at..end],
    });
    let preamble = described.first().map_or(text.len(), |(at, _)| *at);
    (&text[..preamble], entries.collect())
}

/// What begins here, and the schema that it belongs to.
fn kind_and_schema(text: &str) -> Option<(&str, &str)> {
    let mut lines = text.lines().skip(1).skip_while(|line| line.starts_with("-- Dependencies: "));
    let (line, _) = lines.next()?.strip_prefix("-- Name: ")?.rsplit_once("; Owner: ")?;
    let (line, schema) = line.rsplit_once("; Schema: ")?;
    let (name, kind) = line.rsplit_once("; Type: ")?;
    let schema = match (schema, kind) {
        ("-", "SCHEMA") => name,
        // A comment on one, or the rights to it.
        ("-", _) => name.strip_prefix("SCHEMA ")?,
        (schema, _) => schema,
    };
    Some((kind, schema))
}

/// An entry, and the settings behind it that are meant for what follows.
fn without_settings_at_the_end(entry: &str) -> (&str, String) {
    let is_setting = |line: &str| line.starts_with("SET default_");
    let is_between = |line: &&str| matches!(line.trim_end(), "" | "--") || is_setting(line);
    let behind: Vec<_> = entry.split_inclusive('\n').rev().take_while(is_between).collect();
    let end = entry.len() - behind.iter().map(|line| line.len()).sum::<usize>();
    (&entry[..end], behind.into_iter().rev().filter(|line| is_setting(line)).collect())
}

/// The OID of the constraint that an entry makes.
fn constraint(entry: &str) -> Option<u32> {
    let (_, oid) = entry.lines().next()?.split_once(CONSTRAINT)?;
    oid.strip_suffix(')')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As pg_dump writes it.
    const TEXT: &str = "SET x = 0;\n\n--\n\
        -- TOC entry 7 (class 2615 OID 1)\n-- Name: a; Type: SCHEMA; Schema: -; Owner: o\n--\n\nCREATE SCHEMA a;\n\n\n--\n\
        -- TOC entry 8 (class 2615 OID 2)\n-- Name: b; Type: SCHEMA; Schema: -; Owner: o\n--\n\nCREATE SCHEMA b;\n\n\
        SET default_table_access_method = heap;\n\n--\n\
        -- TOC entry 9 (class 1259 OID 3)\n-- Name: t; Type: TABLE; Schema: a; Owner: o\n--\n\nCREATE TABLE a.t (id int);\n\n\n--\n\
        -- TOC entry 10 (class 1259 OID 4)\n-- Name: t; Type: TABLE; Schema: b; Owner: o\n--\n\nCREATE TABLE b.t (id int);\n\n\n--\n\
        -- TOC entry 3403 (class 2606 OID 16391)\n-- Name: t t_pkey; Type: CONSTRAINT; Schema: a; Owner: o\n--\n\n\
        ALTER TABLE ONLY a.t ADD CONSTRAINT t_pkey PRIMARY KEY (id);\n\n\n--\n\
        -- TOC entry 3404 (class 1259 OID 16400)\n-- Dependencies: 9\n-- Name: i; Type: INDEX; Schema: b; Owner: o\n--\n\nCREATE INDEX i ON b.t (id);\n\n\n--\n\
        -- TOC entry 3405 (class 0 OID 0)\n-- Name: INDEX i; Type: COMMENT; Schema: b; Owner: o\n--\n\nCOMMENT ON INDEX b.i IS 'x';\n\n\n--\n\
        -- TOC entry 3406 (class 0 OID 0)\n-- Name: SCHEMA b; Type: ACL; Schema: -; Owner: o\n--\n\nGRANT USAGE ON SCHEMA b TO p;\n";

    #[test]
    fn each_schema_gets_its_own_part_of_a_dump() {
        let dumps = cut(TEXT, &["a".into(), "b".into()]);
        let (a, b) = (&dumps["a"], &dumps["b"]);
        for (dump, own, other) in [(a, "a", "b"), (b, "b", "a")] {
            assert!(dump.before.starts_with("SET x = 0;"));
            assert!(dump.before.contains(&format!("CREATE TABLE {own}.t")), "{}", dump.before);
            assert!(!dump.before.contains(&format!(" {other}")), "{}", dump.before);
            let set = dump.before.find("SET default_table_access_method = heap;").unwrap();
            assert!(set < dump.before.find("CREATE TABLE").unwrap());
        }
        let (keys, rest) = a.split(&[16391]);
        assert!(keys.contains("PRIMARY KEY") && !rest.contains("PRIMARY"));
        let (keys, rest) = b.split(&[16391]);
        assert!(!keys.contains("CREATE"));
        assert!(rest.contains("CREATE INDEX i") && rest.contains("COMMENT ON INDEX"));
        assert!(rest.contains("GRANT USAGE ON SCHEMA b"));
    }

    #[test]
    fn a_schema_alone_gets_everything() {
        let alone = TEXT.replace("Name: b;", "Name: a;").replace("Schema: b", "Schema: a");
        let alone = alone.replace("SCHEMA b", "SCHEMA a");
        let dump = &cut(&alone, &["a".into()])["a"];
        let (_, all) = dump.split(&[]);
        assert_eq!(dump.before.matches("CREATE").count() + all.matches("CREATE").count(), 5);
    }

    #[test]
    fn commands_for_psql_are_left_out_and_what_looks_like_them_stays() {
        let text = "\\restrict abc\nSELECT 1;\n\\restrict other\n\\unrestrict abc\n";
        assert_eq!(without_commands(text), "SELECT 1;\n\\restrict other\n");
        assert_eq!(without_commands("SELECT 1;\n"), "SELECT 1;\n");
    }
}
