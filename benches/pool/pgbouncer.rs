//! PgBouncer: a process of its own between many clients and few connections.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use howdah::Id;
use howdah::postgres::{self, Client};
use howdah_benches::Result;

use crate::contender::{CONNECTIONS, Contender, Sql};
use crate::peers::{connect, read_whole, transact_whole, write_whole};

/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running PgBouncer in transaction mode, ended when dropped.
pub(crate) struct PgBouncer {
    child: Child,
    port: u16,
    version: String,
    _folder: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts one before a server; where there is none to be had, the inner error says why.
    pub(crate) fn start(dsn: &str) -> Result<Result<Self, String>> {
        let program = match bring()? {
            Ok(program) => program,
            Err(reason) => return Ok(Err(reason)),
        };
        let version = Command::new(&program).arg("--version").output()?.stdout;
        let version = String::from_utf8_lossy(&version);
        let version = version.lines().next().and_then(|line| line.split(' ').nth(1));
        let version = version.unwrap_or_default().to_owned();
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings(dsn, port)?)?;
        let mut command = Command::new(program);
        // As root it refuses to serve, but for an account that it changes to.
        if folder.path().metadata()?.uid() == 0 {
            command.args(["--user", "nobody"]);
        }
        let child = command.arg("--quiet").arg(file).stdin(Stdio::null()).spawn()?;
        Ok(Ok(Self { child, port, version, _folder: folder }))
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, or why it cannot be brought.
fn bring() -> Result<Result<PathBuf, String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let folder = target.join("pgbouncer");
    let brought = Command::new(root.join("tools/pgbouncer")).arg(&folder).output()?;
    if brought.status.success() {
        return Ok(Ok(folder.join("bin/pgbouncer")));
    }
    Ok(Err(String::from_utf8_lossy(&brought.stderr).trim().to_owned()))
}

fn settings(dsn: &str, port: u16) -> Result<String> {
    let server: postgres::Config = dsn.parse()?;
    let to = server.get_ports().first().copied().unwrap_or(5432);
    let user = server.get_user().unwrap_or_default();
    let database = server.get_dbname().unwrap_or_default();
    Ok(format!(
        "[databases]\n\
         bench = host=127.0.0.1 port={to} dbname={database} user={user}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         pool_mode = transaction\n\
         default_pool_size = {CONNECTIONS}\n\
         max_client_conn = 1000\n\
         log_connections = 0\n\
         log_disconnections = 0\n"
    ))
}

/// The clients of a PgBouncer, one for each task. Statements are sent whole: up to 1.20 it knows none by name in this mode.
pub(crate) struct Pooled {
    clients: Vec<Client>,
    sql: Sql,
    _server: PgBouncer,
}

impl Pooled {
    pub(crate) async fn open(server: PgBouncer, tasks: usize) -> Result<Self> {
        let dsn = format!("postgres://bench@127.0.0.1:{}/bench", server.port);
        let started = Instant::now();
        let mut clients = Vec::with_capacity(tasks);
        while clients.len() < tasks {
            match connect(&dsn, Self::NAME).await {
                Ok(client) => clients.push(client),
                Err(error) if started.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        Ok(Self { clients, sql: Sql::new(), _server: server })
    }
}

impl Contender for Pooled {
    const NAME: &'static str = "pgbouncer";

    async fn read(&self, task: usize, id: Id) -> Result<String> {
        read_whole(&self.clients[task], &self.sql, id).await
    }

    async fn write(&self, task: usize, id: Id) -> Result<()> {
        write_whole(&self.clients[task], &self.sql, id).await
    }

    async fn transact(&self, task: usize, id: Id) -> Result<()> {
        transact_whole(&self.clients[task], &self.sql, id).await
    }
}
