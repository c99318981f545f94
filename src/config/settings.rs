//! What a configuration means, once it was checked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::password::Passwords;
use super::{Config, Dsn};
use crate::{Error, Result};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// More connections than this to one server help nobody, and usually mean a misplaced digit.
const MAX_CONNECTIONS: u32 = 10_000;
/// The waiting tasks that a process can hold without harm.
const MAX_QUEUE: u32 = 1_000_000;

/// A configuration in which every value is known to be within its bounds.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) catalog: Dsn,
    pub(crate) map_cache: Option<PathBuf>,
    pub(crate) auth: Auth,
    pub(crate) pool: PoolSettings,
}

/// Who logs in, and how.
#[derive(Debug, Clone)]
pub(crate) struct Auth {
    pub(crate) passwords: Passwords,
    sslmode: Option<SslMode>,
    pub(crate) sslrootcert: Option<PathBuf>,
    /// The paths of a certificate and its private key.
    pub(crate) client_cert: Option<(PathBuf, PathBuf)>,
    pub(crate) owner: String,
    pub(crate) mover: String,
}

/// The bounds of each instance's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolSettings {
    pub(crate) max_size: u32,
    pub(crate) min_idle: u32,
    pub(crate) pipelines: u32,
    pub(crate) queue_timeout: Duration,
    pub(crate) queue_length: u32,
    pub(crate) connect_timeout: Duration,
    pub(crate) statement_timeout: Duration,
    pub(crate) idle_in_transaction_timeout: Duration,
    pub(crate) max_lifetime: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) check_delay: Duration,
    pub(crate) statement_cache: StatementCache,
    pub(crate) prepared: bool,
    pub(crate) total_max_size: u32,
}

/// What a connection keeps prepared at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatementCache {
    pub(crate) entries: u32,
    pub(crate) bytes: u64,
}

/// How connections are encrypted and servers are told from impostors: libpq's `sslmode`, without the modes that fall
/// back to plain text silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SslMode {
    /// Plain text.
    Disable,
    /// Encrypted, to whoever answers.
    Require,
    /// Encrypted, to a server whose certificate an authority of `sslrootcert` signed.
    VerifyCa,
    /// As [`VerifyCa`](Self::VerifyCa), and the certificate names the host.
    VerifyFull,
}

impl Config {
    /// Checks every value, and every pair of values that belong together.
    pub(crate) fn settings(&self) -> Result<Settings> {
        if self.dsn.trim().is_empty() {
            return Err(Error::config("the catalog's dsn is missing")
                .hint("set dsn in [catalog], or HOWDAH_CATALOG_DSN"));
        }
        let catalog = self.dsn.parse()?;
        Ok(Settings {
            catalog,
            map_cache: self.map_cache.clone(),
            auth: self.auth()?,
            pool: self.pool()?,
        })
    }

    fn auth(&self) -> Result<Auth> {
        if self.passfile.is_some() && self.password_file.is_some() {
            return Err(Error::config("both passfile and password_file are set")
                .hint("keep the one that holds the password"));
        }
        let client_cert = match (&self.sslcert, &self.sslkey) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) => return Err(Error::config("sslcert is set and sslkey is not")),
            (None, Some(_)) => return Err(Error::config("sslkey is set and sslcert is not")),
        };
        let role = |key, role: &Option<String>, default: &str| match role.as_deref() {
            Some("") => Err(Error::config(format!("{key} is empty")).hint("name a role")),
            role => Ok(role.unwrap_or(default).to_owned()),
        };
        Ok(Auth {
            passwords: Passwords::new(
                self.password.clone(),
                self.password_file.clone(),
                self.passfile.clone(),
            ),
            sslmode: self.sslmode,
            sslrootcert: self.sslrootcert.clone(),
            client_cert,
            owner: role("owner", &self.owner, "howdah_owner")?,
            mover: role("mover", &self.mover, "howdah_mover")?,
        })
    }

    fn pool(&self) -> Result<PoolSettings> {
        let max_size = within("max_size", self.max_size.unwrap_or(20), 1, MAX_CONNECTIONS)?;
        let min_idle = self.min_idle.unwrap_or(max_size.min(2));
        let pipelines = self.pipelines.unwrap_or((max_size - 1).min(4));
        let total_max_size = self.total_max_size.unwrap_or(max_size.max(200));
        Ok(PoolSettings {
            max_size,
            min_idle: within("min_idle", min_idle, 0, max_size)
                .map_err(|error| error.hint("max_size is the bound"))?,
            pipelines: within("pipelines", pipelines, 0, max_size - 1)
                .map_err(|error| error.hint("they must leave one connection of max_size"))?,
            queue_timeout: time("queue_timeout", self.queue_timeout, 5 * SECOND, DAY)?,
            queue_length: within(
                "queue_length",
                self.queue_length.unwrap_or(10_000),
                0,
                MAX_QUEUE,
            )?,
            connect_timeout: time("connect_timeout", self.connect_timeout, 5 * SECOND, DAY)?,
            statement_timeout: time("statement_timeout", self.statement_timeout, 30 * SECOND, DAY)?,
            idle_in_transaction_timeout: time(
                "idle_in_transaction_timeout",
                self.idle_in_transaction_timeout,
                300 * SECOND,
                DAY,
            )?,
            max_lifetime: time("max_lifetime", self.max_lifetime, HOUR, YEAR)?,
            idle_timeout: time("idle_timeout", self.idle_timeout, 600 * SECOND, YEAR)?,
            check_delay: match self.check_delay {
                Some(Duration::ZERO) => Duration::ZERO,
                delay => time("check_delay", delay, 30 * SECOND, YEAR)?,
            },
            statement_cache: StatementCache {
                entries: within(
                    "statement_cache.entries",
                    self.statement_cache_entries.unwrap_or(1000),
                    1,
                    1_000_000,
                )?,
                bytes: within(
                    "statement_cache.bytes",
                    self.statement_cache_bytes.unwrap_or(16 << 20),
                    1 << 10,
                    1 << 40,
                )?,
            },
            prepared: self.prepared.unwrap_or(true),
            total_max_size: within("total_max_size", total_max_size, max_size, u32::MAX)
                .map_err(|error| error.hint("one instance alone may have max_size"))?,
        })
    }
}

impl Auth {
    /// How far a server's certificate is checked, where there is one.
    #[cfg(feature = "tls")]
    pub(crate) fn verification(&self) -> SslMode {
        self.sslmode.unwrap_or(SslMode::VerifyFull)
    }

    /// How to connect to servers that are all local, or not.
    ///
    /// # Errors
    ///
    /// When that takes encryption, and this build has none.
    pub(crate) fn sslmode(&self, local: bool) -> Result<SslMode> {
        let mode = match self.sslmode {
            Some(mode) => mode,
            None if local => SslMode::Disable,
            None => SslMode::VerifyFull,
        };
        if mode == SslMode::Disable || cfg!(feature = "tls") {
            Ok(mode)
        } else {
            Err(Error::config(format!("sslmode is {mode}, and this build cannot encrypt"))
                .hint("build howdah with the feature tls, or say sslmode = \"disable\""))
        }
    }
}

fn within<T: PartialOrd + fmt::Display>(key: &str, value: T, least: T, most: T) -> Result<T> {
    if value >= least && value <= most {
        Ok(value)
    } else {
        Err(Error::config(format!("{key} is {value}: it must be from {least} to {most}")))
    }
}

/// PostgreSQL and the timers count milliseconds, so less than one would be none.
fn time(key: &str, value: Option<Duration>, default: Duration, most: Duration) -> Result<Duration> {
    match value {
        None => Ok(default),
        Some(time) if time >= Duration::from_millis(1) && time <= most => Ok(time),
        Some(time) => Err(Error::config(format!(
            "{key} is {}: it must be from 1ms to {}",
            humantime::format_duration(time),
            humantime::format_duration(most)
        ))),
    }
}

impl FromStr for SslMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "disable" => Self::Disable,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            "allow" | "prefer" => {
                return Err(Error::config(format!(
                    "sslmode {text:?} falls back to plain text unseen, and is not offered"
                ))
                .hint("use verify-full, or disable where that is meant"));
            }
            _ => {
                return Err(Error::config(format!("sslmode {text:?} is unknown"))
                    .hint("use verify-full, verify-ca, require or disable"));
            }
        })
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "disable",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DSN: &str = "postgres://app@db1/d";

    fn refused(config: &Config) -> String {
        let error = config.settings().unwrap_err();
        assert!(error.is_config(), "{error}");
        error.to_string()
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let settings = Config::new(DSN).settings().unwrap();
        assert_eq!(settings.auth.owner, "howdah_owner");
        let pool = settings.pool;
        assert_eq!((pool.max_size, pool.min_idle, pool.pipelines), (20, 2, 4));
        assert_eq!((pool.queue_length, pool.total_max_size, pool.prepared), (10_000, 200, true));
        assert_eq!(pool.queue_timeout, Duration::from_secs(5));
        assert_eq!(pool.connect_timeout, Duration::from_secs(5));
        assert_eq!(pool.statement_timeout, Duration::from_secs(30));
        assert_eq!(pool.idle_in_transaction_timeout, Duration::from_secs(300));
        assert_eq!(pool.max_lifetime, Duration::from_secs(3600));
        assert_eq!(pool.idle_timeout, Duration::from_secs(600));
        assert_eq!(pool.check_delay, Duration::from_secs(30));
        assert_eq!(pool.statement_cache, StatementCache { entries: 1000, bytes: 16 << 20 });
    }

    #[test]
    fn defaults_follow_a_small_or_a_large_max_size() {
        let pool = |size| Config::new(DSN).max_size(size).settings().unwrap().pool;
        assert_eq!((pool(1).min_idle, pool(1).pipelines), (1, 0));
        assert_eq!((pool(3).min_idle, pool(3).pipelines), (2, 2));
        assert_eq!(pool(300).total_max_size, 300);
    }

    #[test]
    fn values_out_of_bounds_are_refused_by_name() {
        let config = || Config::new(DSN);
        for (config, key) in [
            (config().max_size(0), "max_size is 0"),
            (config().max_size(10_001), "max_size"),
            (config().max_size(5).min_idle(6), "min_idle is 6"),
            (config().max_size(5).pipelines(5), "pipelines is 5"),
            (config().total_max_size(19), "total_max_size is 19"),
            (config().queue_timeout(Duration::ZERO), "queue_timeout"),
            (config().statement_timeout(Duration::from_micros(1)), "statement_timeout"),
            (config().connect_timeout(Duration::MAX), "connect_timeout"),
            (config().statement_cache(0, 1 << 20), "statement_cache.entries"),
            (config().statement_cache(10, 10), "statement_cache.bytes"),
            (config().owner(""), "owner"),
            (config().sslcert("/c"), "sslkey"),
            (config().passfile("/a").password_file("/b"), "passfile"),
            (Config::new(" "), "HOWDAH_CATALOG_DSN"),
        ] {
            let message = refused(&config);
            assert!(message.contains(key), "{message}");
        }
        assert!(config().check_delay(Duration::ZERO).settings().is_ok());
    }

    #[test]
    fn only_local_hosts_are_reached_in_plain_text_unasked() {
        let auth = |config: Config| config.settings().unwrap().auth;
        assert_eq!(auth(Config::new(DSN)).sslmode(true).unwrap(), SslMode::Disable);
        let remote = auth(Config::new(DSN)).sslmode(false);
        if cfg!(feature = "tls") {
            assert_eq!(remote.unwrap(), SslMode::VerifyFull);
        } else {
            assert!(remote.unwrap_err().to_string().contains("feature tls"));
        }
        let plain = auth(Config::new(DSN).sslmode(SslMode::Disable));
        assert_eq!(plain.sslmode(false).unwrap(), SslMode::Disable);
    }
}
