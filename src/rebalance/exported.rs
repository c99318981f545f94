//! Slots together with the snapshots that belong to them: a snapshot shows what was committed before its slot's position. PostgreSQL
//! gives both out over the replication protocol alone, which psql speaks.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::names::{ident, temporary};
use super::programs::Programs;
use super::side::Side;
use super::stream;
use crate::connect::{Connector, Role};
use crate::error::Kind;
use crate::{Error, Result};

/// What limits others must not end this, nor change what a snapshot is.
const OPTIONS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
    -c idle_session_timeout=0 -c default_transaction_isolation=read\\ committed";

/// A psql that has logged in for replication. It ends when nothing can be written to it any more, whatever becomes of this
/// process.
#[derive(Debug)]
pub(super) struct Exporter {
    psql: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Exporter {
    pub(super) fn open(programs: &Programs, connector: &Connector, side: &Side) -> Result<Self> {
        let program = programs.psql();
        let failed = || Error::system(format!("cannot run {}", program.display()));
        let access = connector.libpq(&side.dsn, Role::Mover)?;
        let mut psql = Command::new(&program);
        psql.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--field-separator=|"]);
        // It ends where the server refuses: that is the only answer then.
        psql.args(["--set", "ON_ERROR_STOP=1"]);
        psql.arg("--dbname").arg(format!("{} replication=database", access.conninfo));
        access.lead(&mut psql);
        psql.env("PGOPTIONS", OPTIONS);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut psql = psql.spawn().map_err(|error| failed().because(error))?;
        let (to, from) = psql.stdin.take().zip(psql.stdout.take()).ok_or_else(failed)?;
        Ok(Self { psql, to, from: BufReader::new(from) })
    }

    /// Makes a slot, and says what `SET TRANSACTION SNAPSHOT` calls the snapshot of its position: until this is
    /// [released](Self::release) or dropped. It waits for every transaction that writes on that server to end.
    ///
    /// What psql makes is temporary and ends with it, so a mover that dies leaves nothing behind that nobody knows of. The slot
    /// that stays is made of it by the session that a mover has for that.
    pub(super) async fn export(&mut self, side: &Side, slot: &str) -> Result<String> {
        let name = temporary(slot);
        let make = format!(
            "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT;\n",
            ident(&name)
        );
        let failed = || {
            let what = "psql lost the server, or could not log in for replication";
            Error::new(Kind::Unavailable, what).at(&side.name)
        };
        let mut answer = String::new();
        let asked = async {
            self.to.write_all(make.as_bytes()).await?;
            self.to.flush().await?;
            self.from.read_line(&mut answer).await
        };
        asked.await.map_err(|error| failed().because(error))?;
        // Slot, position, snapshot, plugin.
        let Some(snapshot) = answer.split('|').nth(2).map(str::to_owned) else {
            let said = self.said().await;
            let refused = said.starts_with("ERROR:");
            let what = "cannot make the replication slot";
            let error = if refused { Error::system(what).at(&side.name) } else { failed() };
            return Err(error.because(said));
        };
        stream::copy_slot(side, &name, slot).await?;
        Ok(snapshot)
    }

    /// Lets go of the snapshot that was exported last.
    pub(super) async fn release(&mut self, slot: &str) -> Result<()> {
        let drop = format!("DROP_REPLICATION_SLOT {};\n", ident(&temporary(slot)));
        let written = async {
            self.to.write_all(drop.as_bytes()).await?;
            self.to.flush().await
        };
        let ended = |error| Error::new(Kind::Unavailable, "psql has ended").because(error);
        written.await.map_err(ended)
    }

    /// What it said before it ended.
    async fn said(&mut self) -> String {
        let mut said = String::new();
        if let Some(stderr) = self.psql.stderr.as_mut() {
            // What was said until then is said.
            let _ = stderr.read_to_string(&mut said).await;
        }
        let is_telling =
            |line: &&str| ["ERROR:", "FATAL:", "error:"].iter().any(|word| line.contains(word));
        said.lines().find(is_telling).unwrap_or("it ended without a word").to_owned()
    }
}
