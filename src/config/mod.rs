//! How an application reaches its cluster: `howdah.toml`, and the builder that mirrors it.
//!
//! A [`Config`] is what somebody asked for; [`Settings`] is what that means once it was checked. The rest of
//! the crate sees only settings, so nothing has to be validated twice. Neither ever shows a password.

mod dsn;
mod file;
mod password;
mod settings;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use dsn::Dsn;
pub(crate) use password::Password;
pub use settings::SslMode;
pub(crate) use settings::{Auth, Settings, StatementCache};

use crate::Result;

/// How to reach a cluster, and how many connections to keep: `howdah.toml`, or its builder.
///
/// Every key of the file has a setter of the same name, except the catalog's address, which [`Config::new`] takes. Only that
/// is required; the instances' addresses are in the catalog.
///
/// ```toml
/// [catalog]
/// dsn = "postgres://howdah_app@db1,db2/app"
/// [auth]
/// passfile = "/etc/howdah/passfile"
/// [pool]
/// max_size = 20
/// queue_timeout = "5s"
/// statement_cache = { entries = 1000, bytes = "16MiB" }
/// ```
///
/// Each key can be overridden by an environment variable: `HOWDAH_`, the section and the key in capitals, such
/// as `HOWDAH_CATALOG_DSN`, `HOWDAH_AUTH_PASSFILE` and `HOWDAH_POOL_STATEMENT_CACHE_BYTES`. `HOWDAH_PASSWORD` is
/// the password itself.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use howdah::Config;
///
/// let config = Config::new("postgres://howdah_app@db1,db2/app")
///     .passfile("/etc/howdah/passfile")
///     .max_size(40)
///     .queue_timeout(Duration::from_secs(2));
///
/// let same = Config::parse(
///     r#"
///     [catalog]
///     dsn = "postgres://howdah_app@db1,db2/app"
///     [auth]
///     passfile = "/etc/howdah/passfile"
///     [pool]
///     max_size = 40
///     queue_timeout = "2s"
///     "#,
/// )?;
/// assert_eq!(format!("{config:?}"), format!("{same:?}"));
/// # Ok::<(), howdah::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Config {
    dsn: String,
    map_cache: Option<PathBuf>,
    passfile: Option<PathBuf>,
    password_file: Option<PathBuf>,
    password: Option<Password>,
    sslmode: Option<SslMode>,
    sslrootcert: Option<PathBuf>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    owner: Option<String>,
    mover: Option<String>,
    max_size: Option<u32>,
    min_idle: Option<u32>,
    pipelines: Option<u32>,
    queue_timeout: Option<Duration>,
    queue_length: Option<u32>,
    connect_timeout: Option<Duration>,
    statement_timeout: Option<Duration>,
    idle_in_transaction_timeout: Option<Duration>,
    max_lifetime: Option<Duration>,
    idle_timeout: Option<Duration>,
    check_delay: Option<Duration>,
    statement_cache_entries: Option<u32>,
    statement_cache_bytes: Option<u64>,
    prepared: Option<bool>,
    total_max_size: Option<u32>,
}

impl Config {
    /// A configuration with nothing but the catalog's address, a `postgres://` URL: see [`Dsn`].
    ///
    /// Like every value set here, it is checked when the configuration is used.
    #[must_use]
    pub fn new(dsn: impl Into<String>) -> Self {
        Self { dsn: dsn.into(), ..Self::default() }
    }

    /// The catalog's address.
    ///
    /// # Errors
    ///
    /// When it is missing or no address, or the configuration is not valid.
    pub fn catalog(&self) -> Result<Dsn> {
        Ok(self.settings()?.catalog)
    }

    /// A file that keeps a copy of the shard map, so that the application starts and runs while the catalog is
    /// down. Default: none.
    #[must_use]
    pub fn map_cache(mut self, path: impl Into<PathBuf>) -> Self {
        self.map_cache = Some(path.into());
        self
    }

    /// A file of passwords in the format of libpq's `.pgpass`: `host:port:database:user:password` lines, of which
    /// the first that matches is taken. Read at each connect; refused when others than its owner may read it.
    /// Default: none.
    #[must_use]
    pub fn passfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.passfile = Some(path.into());
        self
    }

    /// A file that holds one password, for all servers and roles, and nothing else. Read at each connect, so that
    /// a new password needs no restart. Default: none.
    #[must_use]
    pub fn password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.password_file = Some(path.into());
        self
    }

    /// The password itself, for all servers and roles; it takes precedence over both files. In the environment it is
    /// `HOWDAH_PASSWORD`; `howdah.toml` has no key for it. Default: none.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Password::new(password.into()));
        self
    }

    /// How connections are encrypted and servers are told from impostors. Default: [`SslMode::VerifyFull`], but
    /// plain text for an address whose hosts are all local (a Unix socket, a loopback address or `localhost`).
    #[must_use]
    pub fn sslmode(mut self, mode: SslMode) -> Self {
        self.sslmode = Some(mode);
        self
    }

    /// The certificates, in PEM, of the authorities that may have signed a server's. Needed by the modes that verify.
    /// Default: none.
    #[must_use]
    pub fn sslrootcert(mut self, path: impl Into<PathBuf>) -> Self {
        self.sslrootcert = Some(path.into());
        self
    }

    /// The certificate, in PEM, with which to log in; goes with [`sslkey`](Self::sslkey). Default: none.
    #[must_use]
    pub fn sslcert(mut self, path: impl Into<PathBuf>) -> Self {
        self.sslcert = Some(path.into());
        self
    }

    /// The private key, in PEM, of [`sslcert`](Self::sslcert). Default: none.
    #[must_use]
    pub fn sslkey(mut self, path: impl Into<PathBuf>) -> Self {
        self.sslkey = Some(path.into());
        self
    }

    /// The role as which `init`, migrations, moves, and changes of instances and of the catalog's place log in; it owns the
    /// shards' schemas. Default: `howdah_owner`.
    #[must_use]
    pub fn owner(mut self, role: impl Into<String>) -> Self {
        self.owner = Some(role.into());
        self
    }

    /// The role as which moves log in, besides the owner. Default: `howdah_mover`.
    #[must_use]
    pub fn mover(mut self, role: impl Into<String>) -> Self {
        self.mover = Some(role.into());
        self
    }

    /// The most connections to an instance's primary, and as many again to each of its replicas that is read from: each has a
    /// pool of its own. From 1 to 10,000. Default: 20.
    #[must_use]
    pub fn max_size(mut self, connections: u32) -> Self {
        self.max_size = Some(connections);
        self
    }

    /// How many connections to an instance are kept open even when idle, at most [`max_size`](Self::max_size).
    /// Default: 2, or `max_size` if that is less.
    #[must_use]
    pub fn min_idle(mut self, connections: u32) -> Self {
        self.min_idle = Some(connections);
        self
    }

    /// How many of an instance's connections carry pipelined reads, fewer than [`max_size`](Self::max_size); 0 turns
    /// pipelines off. Default: 4, or all but one if `max_size` is small.
    #[must_use]
    pub fn pipelines(mut self, connections: u32) -> Self {
        self.pipelines = Some(connections);
        self
    }

    /// How long a task waits for a connection before its call fails, at most a day. Default: 5 seconds.
    #[must_use]
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = Some(timeout);
        self
    }

    /// How many tasks may wait for a connection to one instance, at most 1,000,000; the next is refused at once.
    /// Default: 10,000.
    #[must_use]
    pub fn queue_length(mut self, tasks: u32) -> Self {
        self.queue_length = Some(tasks);
        self
    }

    /// How long connecting to one host may take, log-in included, at most a day. Default: 5 seconds.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// How long one statement may run before the server ends it, at most a day; a shard handle can be given a
    /// [shorter limit](crate::Shard::statement_timeout). Default: 30 seconds.
    #[must_use]
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = Some(timeout);
        self
    }

    /// How long a transaction may wait for its next statement before the server ends it, at most a day. Default: 5
    /// minutes.
    #[must_use]
    pub fn idle_in_transaction_timeout(mut self, timeout: Duration) -> Self {
        self.idle_in_transaction_timeout = Some(timeout);
        self
    }

    /// How old a connection may grow before a new one replaces it; shortened by a random part, up to a fifth, so that
    /// connections that were made together do not end together. At most a year. Default: 1 hour.
    #[must_use]
    pub fn max_lifetime(mut self, age: Duration) -> Self {
        self.max_lifetime = Some(age);
        self
    }

    /// How long a connection stays open that is not needed: one more than were ever in use at once within this time, and
    /// [`min_idle`](Self::min_idle) beyond these. It is closed after half as long again at most, or when it comes back next. At
    /// most a year. Default: 10 minutes.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// How long after its last use a connection is trusted without asking the server whether it is still there; 0
    /// asks each time. At most a year. Default: 30 seconds.
    #[must_use]
    pub fn check_delay(mut self, delay: Duration) -> Self {
        self.check_delay = Some(delay);
        self
    }

    /// How many statements each connection keeps prepared, and how many bytes of SQL these may have in all; the same
    /// statement counts once for each shard. At least 1 and 1,024 bytes. Default: 1,000 and 16 MiB.
    #[must_use]
    pub fn statement_cache(mut self, entries: u32, bytes: u64) -> Self {
        self.statement_cache_entries = Some(entries);
        self.statement_cache_bytes = Some(bytes);
        self
    }

    /// Whether statements are prepared by name. Set it to `false` behind a pooler in transaction mode, which hands each
    /// transaction another server connection. Default: `true`.
    #[must_use]
    pub fn prepared(mut self, prepared: bool) -> Self {
        self.prepared = Some(prepared);
        self
    }

    /// The most connections to the primaries of all instances together, at least [`max_size`](Self::max_size). Default: 200,
    /// or `max_size` if that is more.
    #[must_use]
    pub fn total_max_size(mut self, connections: u32) -> Self {
        self.total_max_size = Some(connections);
        self
    }
}

impl fmt::Debug for Config {
    /// Shows what was set; never a password, and no address that may hold one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Config");
        match self.dsn.parse::<Dsn>() {
            Ok(dsn) => shown.field("dsn", &dsn),
            Err(_) => shown.field("dsn", &"(not valid)"),
        };
        macro_rules! show {
            ($($key:ident)*) => {
                $(if let Some(value) = &self.$key {
                    shown.field(stringify!($key), value);
                })*
            };
        }
        show!(map_cache passfile password_file password sslmode sslrootcert sslcert sslkey owner mover);
        show!(max_size min_idle pipelines queue_timeout queue_length connect_timeout statement_timeout);
        show!(idle_in_transaction_timeout max_lifetime idle_timeout check_delay statement_cache_entries statement_cache_bytes);
        show!(prepared total_max_size);
        shown.finish()
    }
}
