//! The life of one server: made, started, stopped, killed, promoted.
//!
//! A data folder is made beside its place and renamed into it when it is complete, so an interruption leaves
//! nothing that looks like a server.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::process::{postmaster, run, telling_line};
use super::settings::{FILE, ROLES, SUPERUSER, Settings};
use super::{Server, ServerRole, folders, port, process};
use crate::{Error, Result, file};

/// How long a server may take to start: recovery after a crash included.
const START_SECONDS: u32 = 120;

/// How long it may take to write everything down when it is stopped.
const STOP_PATIENCE: Duration = Duration::from_secs(120);

/// What a server says that finds processes of its last run: they end by themselves when they notice that their first one
/// is dead.
const SURVIVORS: &str = "pre-existing shared memory block";
const SURVIVORS_PATIENCE: Duration = Duration::from_secs(10);
const SURVIVORS_PAUSE: Duration = Duration::from_millis(50);

/// How often another port is tried when somebody else takes ours in the very moment of starting.
const PORT_ATTEMPTS: usize = 10;

impl Server {
    /// Makes a primary with the roles and an empty database.
    pub(super) async fn make_primary(&self, major: u32, templates: Option<&Path>) -> Result<()> {
        let making = self.begin_making().await?;
        match templates {
            Some(templates) if self.copy_template(templates, major, &making).await => {}
            Some(templates) => {
                self.make_data(&making, major).await?;
                self.keep_template(templates, major, &making).await;
            }
            None => self.make_data(&making, major).await?,
        }
        self.finish_making(&making)
    }

    async fn make_data(&self, making: &Path, major: u32) -> Result<()> {
        let mut initdb = self.account.command(self.program("initdb"), &self.folder);
        initdb.arg("--pgdata").arg(making);
        initdb.args(["--username", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        if !self.durable {
            initdb.arg("--no-sync");
        }
        run(initdb).await.map_err(|reason| self.failed("cannot make a data folder", reason))?;

        fs::OpenOptions::new()
            .append(true)
            // The folder is the account's, which may put a link there.
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(making.join("postgresql.conf"))
            .and_then(|mut file| writeln!(file, "\ninclude '{FILE}'"))
            .map_err(|error| self.failed("cannot write postgresql.conf", error))?;
        self.write_settings(making, major, None)?;
        self.create_roles(making).await
    }

    /// Makes a streaming replica of a running primary.
    pub(super) async fn make_replica(&self, primary: &Self) -> Result<()> {
        // The background process of a copy that was interrupted may still be in the folder, and spoil the next.
        let mut making = self.begin_making().await?;
        for _ in 0..2 {
            if self.copy_primary(primary, &making).await.is_ok() {
                return self.finish_replica(&making);
            }
            making = self.begin_making().await?;
        }
        self.copy_primary(primary, &making).await?;
        self.finish_replica(&making)
    }

    async fn copy_primary(&self, primary: &Self, making: &Path) -> Result<()> {
        let mut backup = self.account.command(self.program("pg_basebackup"), &self.folder);
        backup.arg("--pgdata").arg(making).arg("--host").arg(&primary.sockets);
        backup.args(["--port", &primary.port.to_string(), "--username", SUPERUSER]);
        backup.args(["--checkpoint=fast", "--wal-method=stream", "--no-password"]);
        if !self.durable {
            backup.arg("--no-sync");
        }
        run(backup).await.map_err(|reason| self.failed("cannot copy the primary", reason))?;
        Ok(())
    }

    fn finish_replica(&self, making: &Path) -> Result<()> {
        file::create(&making.join("standby.signal"))
            .and_then(|signal| self.account.give(&signal))
            .map_err(|error| self.failed("cannot make it a replica", error))?;
        self.finish_making(making)
    }

    /// Clears away what an interrupted attempt left, and gives the path under which a data folder is made.
    async fn begin_making(&self) -> Result<PathBuf> {
        self.remove().await?;
        self.account.make_folder(&self.folder, 0o700)?;
        Ok(self.folder.join("data.new"))
    }

    fn finish_making(&self, making: &Path) -> Result<()> {
        fs::rename(making, self.data_dir())
            .map_err(|error| self.failed("cannot finish the data folder", error))
    }

    /// Creates roles and database before the server is ever reachable.
    async fn create_roles(&self, data: &Path) -> Result<()> {
        let failed = |reason: String| self.failed("cannot create the roles", reason);
        let mut postgres = self.account.command(self.program("postgres"), &self.folder);
        postgres.arg("--single").arg("-D").arg(data).args(["-c", "exit_on_error=on", "postgres"]);
        postgres.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = postgres.spawn().map_err(|error| failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(ROLES.as_bytes()).await.map_err(|error| failed(error.to_string()))?;
        }
        let output = child.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(telling_line(&said).unwrap_or_else(|| output.status.to_string())))
    }

    /// Starts it, on another port if somebody has taken its own, unless it runs already.
    ///
    /// `upstream` is the port of the server that it follows; `taken` are ports of other servers of the
    /// cluster, which must keep theirs even while they are stopped.
    pub(super) async fn start(&mut self, upstream: Option<u16>, taken: &[u16]) -> Result<()> {
        let data = self.data_dir();
        // A start that was interrupted goes on by itself.
        process::started(&data).await;
        process::ready(&data, Duration::from_secs(START_SECONDS.into())).await;
        if postmaster(&data).is_some() {
            return Ok(());
        }
        let major = self.version().ok_or_else(|| {
            self.failed("cannot start", format!("{} is not complete", data.display()))
                .hint("destroy the cluster and make it again")
        })?;
        // A number left from before a crash or a reboot may have been given to another process by now,
        // and PostgreSQL would wait for that one. Processes of this server that survive their first one
        // are found by PostgreSQL itself: they hold on to its shared memory.
        let _ = fs::remove_file(data.join("postmaster.pid"));
        let began = Instant::now();
        for attempt in 1.. {
            if !port::is_free_soon(self.port).await {
                self.port = port::pick(taken)?;
            }
            // For the same reason: whoever has the socket of a port here also listens on the port.
            let _ = fs::remove_file(self.sockets.join(format!(".s.PGSQL.{}.lock", self.port)));
            self.write_settings(&data, major, upstream)?;
            let log_end = fs::metadata(self.log_file()).map_or(0, |log| log.len());
            let mut pg_ctl = self.account.command(self.program("pg_ctl"), &self.folder);
            pg_ctl.arg("start").arg("-D").arg(&data).arg("-l").arg(self.log_file());
            pg_ctl.args(["--silent", "--wait", "--timeout", &START_SECONDS.to_string()]);
            let Err(reason) = run(pg_ctl).await else { break };
            let said = self.log_since(log_end);
            if said.contains(SURVIVORS) && began.elapsed() < SURVIVORS_PATIENCE {
                sleep(SURVIVORS_PAUSE).await;
                continue;
            }
            if attempt >= PORT_ATTEMPTS || port::is_free(self.port) {
                let reason = telling_line(&said).unwrap_or(reason);
                let log = self.log_file();
                return Err(self
                    .failed("cannot start", reason)
                    .hint(format!("its log is {}", log.display())));
            }
        }
        Ok(())
    }

    /// Directs a replica to where its primary listens now.
    pub(super) fn follow(&self, upstream: u16) -> Result<()> {
        let data = self.data_dir();
        if let (Some(running), Some(major)) = (postmaster(&data), self.version())
            && self.write_settings(&data, major, Some(upstream))?
        {
            process::reload(running.pid)?;
        }
        Ok(())
    }

    /// Stops it and waits until it has written everything down; open connections are closed.
    pub(super) async fn stop(&self) -> Result<()> {
        self.end(Signal::SIGINT).await
    }

    /// Ends all its processes as a power failure would.
    pub(super) async fn kill(&self) -> Result<()> {
        let data = self.data_dir();
        match postmaster(&data) {
            Some(running) => {
                process::kill_all(running.pid, &data).await.map_err(|e| e.at(&self.name))
            }
            None => Ok(()),
        }
    }

    /// Halts all its processes: it keeps its connections, and answers nothing.
    pub(super) async fn suspend(&self) -> Result<()> {
        match postmaster(&self.data_dir()) {
            Some(running) => process::suspend(running.pid).await.map_err(|e| e.at(&self.name)),
            None => Err(Error::refused("it does not run").at(&self.name)),
        }
    }

    /// Lets its processes go on.
    pub(super) async fn resume(&self) -> Result<()> {
        match postmaster(&self.data_dir()) {
            Some(running) => process::resume(running.pid).await.map_err(|e| e.at(&self.name)),
            None => Err(Error::refused("it does not run").at(&self.name)),
        }
    }

    /// Makes a replica a primary, and waits until it takes writes.
    pub(super) async fn promote(&self) -> Result<()> {
        if self.role() == ServerRole::Primary {
            return Err(Error::refused("it is a primary already").at(&self.name));
        }
        let mut pg_ctl = self.account.command(self.program("pg_ctl"), &self.folder);
        pg_ctl.arg("promote").arg("-D").arg(self.data_dir());
        pg_ctl.args(["--silent", "--wait", "--timeout", &START_SECONDS.to_string()]);
        run(pg_ctl).await.map_err(|reason| self.failed("cannot promote it", reason))?;
        Ok(())
    }

    /// Ends it, if it runs, and deletes all its files.
    pub(super) async fn remove(&self) -> Result<()> {
        // Its data is about to go: there is nothing to write down first.
        self.end(Signal::SIGQUIT).await?;
        folders::remove_folder(&self.folder).await
    }

    async fn end(&self, how: Signal) -> Result<()> {
        let data = self.data_dir();
        process::started(&data).await;
        match postmaster(&data) {
            Some(running) => process::end(running.pid, &data, how, STOP_PATIENCE)
                .await
                .map_err(|error| error.at(&self.name)),
            None => Ok(()),
        }
    }

    /// Writes our settings into a data folder; says whether they have changed.
    fn write_settings(&self, data: &Path, major: u32, upstream: Option<u16>) -> Result<bool> {
        let settings = Settings {
            name: &self.name,
            major,
            port: self.port,
            sockets: &self.sockets,
            durable: self.durable,
            upstream: upstream.filter(|_| self.role() == ServerRole::Replica),
        };
        let give = |file: &fs::File| self.account.give(file);
        file::replace_as(&data.join(FILE), "new", &settings.text(), give)
            .map_err(|error| error.at(&self.name))
    }

    /// What its log says from a position on; survivors of its last run write there as well.
    fn log_since(&self, position: u64) -> String {
        let mut said = Vec::new();
        // A log that cannot be read says nothing.
        let _ = fs::File::open(self.log_file()).and_then(|mut log| {
            log.seek(SeekFrom::Start(position))?;
            log.read_to_end(&mut said)
        });
        String::from_utf8_lossy(&said).into_owned()
    }

    fn failed(
        &self,
        what: &str,
        reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::system(what).because(reason).at(&self.name)
    }
}
