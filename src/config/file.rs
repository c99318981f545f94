//! `howdah.toml` and the environment, read into a [`Config`].

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::{Config, Password, SslMode};
use crate::{Error, Result};

/// How the variables of keys begin. Other programs may have `HOWDAH_…` variables of their own.
const SECTIONS: [&str; 3] = ["HOWDAH_CATALOG_", "HOWDAH_AUTH_", "HOWDAH_POOL_"];

/// Where the configuration is looked for when nothing says where it is.
const PLACES: [&str; 2] = ["howdah.toml", ".howdah/howdah.toml"];

impl Config {
    /// The configuration of this process: the file that `HOWDAH_CONFIG` names, else `howdah.toml`, else
    /// `.howdah/howdah.toml`, each key overridden by its `HOWDAH_…` variable where that is set.
    ///
    /// Without any file the variables alone must say enough.
    ///
    /// # Errors
    ///
    /// When there is no configuration, or it is not valid: see [`Config::from_file`].
    pub fn load() -> Result<Self> {
        Self::find()?.ok_or_else(|| {
            Error::config(format!(
                "there is no configuration: neither {} nor {} is here",
                PLACES[0], PLACES[1]
            ))
            .hint("name a file with HOWDAH_CONFIG, or set HOWDAH_CATALOG_DSN")
        })
    }

    /// As [`Config::load`], for whoever can do without: `None` where nothing is configured.
    ///
    /// # Errors
    ///
    /// When there is a configuration and it is not valid.
    pub fn find() -> Result<Option<Self>> {
        let named = env::var_os("HOWDAH_CONFIG").map(PathBuf::from);
        let found = PLACES.map(PathBuf::from).into_iter().find(|path| path.exists());
        if let Some(path) = named.or(found) {
            return Self::from_file(path).map(Some);
        }
        if env::var_os("HOWDAH_CATALOG_DSN").is_none() {
            return Ok(None);
        }
        Self::default().overridden(env::vars_os()).map(Some)
    }

    /// The configuration in a file, each key overridden by its `HOWDAH_…` variable where that is set.
    ///
    /// Paths in the file that are not absolute start from the file's folder.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, has a key that howdah does not know, or lacks one that it needs, and when a value is
    /// malformed or out of bounds. The message names the file, the line and the key, and never shows a password.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::read(path.as_ref(), env::vars_os())
    }

    /// The same, but the environment has no say.
    ///
    /// # Errors
    ///
    /// As [`Config::from_file`].
    pub fn from_file_alone(path: impl AsRef<Path>) -> Result<Self> {
        Self::read(path.as_ref(), std::iter::empty())
    }

    fn read(path: &Path, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| {
            Error::config(format!("the configuration {name} cannot be read")).because(error)
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        File::parse(&text, &name)?
            .into_config(folder)
            .overridden(variables)
            .map_err(|error| Error::config(name).because(error))
    }

    /// The configuration in a text of the form of `howdah.toml`; the environment has no say.
    ///
    /// # Errors
    ///
    /// As [`Config::from_file`].
    pub fn parse(toml: &str) -> Result<Self> {
        let config = File::parse(toml, "the configuration")?.into_config(Path::new(""));
        config.settings()?;
        Ok(config)
    }

    /// Applies the variables that concern the configuration, and checks the whole.
    fn overridden(mut self, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self> {
        for (name, value) in variables {
            let name = name.to_string_lossy();
            if !is_ours(&name) {
                continue;
            }
            let value = value.into_string().map_err(|_| Error::config("it is not UTF-8"));
            let set = value.and_then(|value| self.set(&name, value));
            set.map_err(|error| Error::config(name).because(error))?;
        }
        self.settings()?;
        Ok(self)
    }

    /// Sets the key of one variable.
    fn set(&mut self, variable: &str, value: String) -> Result<()> {
        match variable {
            "HOWDAH_PASSWORD" => self.password = Some(Password::new(value)),
            "HOWDAH_CATALOG_DSN" => self.dsn = value,
            "HOWDAH_CATALOG_MAP_CACHE" => self.map_cache = Some(value.into()),
            // Whoever names one of the two files in the environment means it instead of the other.
            "HOWDAH_AUTH_PASSFILE" => {
                self.passfile = Some(value.into());
                self.password_file = None;
            }
            "HOWDAH_AUTH_PASSWORD_FILE" => {
                self.password_file = Some(value.into());
                self.passfile = None;
            }
            "HOWDAH_AUTH_SSLMODE" => self.sslmode = Some(value.parse()?),
            "HOWDAH_AUTH_SSLROOTCERT" => self.sslrootcert = Some(value.into()),
            "HOWDAH_AUTH_SSLCERT" => self.sslcert = Some(value.into()),
            "HOWDAH_AUTH_SSLKEY" => self.sslkey = Some(value.into()),
            "HOWDAH_AUTH_OWNER" => self.owner = Some(value),
            "HOWDAH_AUTH_MOVER" => self.mover = Some(value),
            "HOWDAH_POOL_MAX_SIZE" => self.max_size = Some(number(&value)?),
            "HOWDAH_POOL_MIN_IDLE" => self.min_idle = Some(number(&value)?),
            "HOWDAH_POOL_PIPELINES" => self.pipelines = Some(number(&value)?),
            "HOWDAH_POOL_QUEUE_TIMEOUT" => self.queue_timeout = Some(duration(&value)?),
            "HOWDAH_POOL_QUEUE_LENGTH" => self.queue_length = Some(number(&value)?),
            "HOWDAH_POOL_CONNECT_TIMEOUT" => self.connect_timeout = Some(duration(&value)?),
            "HOWDAH_POOL_STATEMENT_TIMEOUT" => self.statement_timeout = Some(duration(&value)?),
            "HOWDAH_POOL_IDLE_IN_TRANSACTION_TIMEOUT" => {
                self.idle_in_transaction_timeout = Some(duration(&value)?);
            }
            "HOWDAH_POOL_MAX_LIFETIME" => self.max_lifetime = Some(duration(&value)?),
            "HOWDAH_POOL_IDLE_TIMEOUT" => self.idle_timeout = Some(duration(&value)?),
            "HOWDAH_POOL_CHECK_DELAY" => self.check_delay = Some(duration(&value)?),
            "HOWDAH_POOL_STATEMENT_CACHE_ENTRIES" => {
                self.statement_cache_entries = Some(number(&value)?);
            }
            "HOWDAH_POOL_STATEMENT_CACHE_BYTES" => self.statement_cache_bytes = Some(size(&value)?),
            "HOWDAH_POOL_PREPARED" => {
                self.prepared =
                    Some(value.parse().map_err(|_| {
                        Error::config(format!("{value:?} is neither true nor false"))
                    })?);
            }
            "HOWDAH_POOL_TOTAL_MAX_SIZE" => self.total_max_size = Some(number(&value)?),
            _ => {
                return Err(Error::config("no such setting")
                    .hint("a variable is HOWDAH_, the section and the key of howdah.toml"));
            }
        }
        Ok(())
    }
}

/// Whether a variable concerns the configuration.
fn is_ours(variable: &str) -> bool {
    variable == "HOWDAH_PASSWORD" || SECTIONS.iter().any(|section| variable.starts_with(section))
}

/// The file, key by key.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    catalog: CatalogSection,
    auth: AuthSection,
    pool: PoolSection,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct CatalogSection {
    dsn: String,
    map_cache: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct AuthSection {
    passfile: Option<PathBuf>,
    password_file: Option<PathBuf>,
    #[serde(deserialize_with = "sslmode_key")]
    sslmode: Option<SslMode>,
    sslrootcert: Option<PathBuf>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    owner: Option<String>,
    mover: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PoolSection {
    max_size: Option<u32>,
    min_idle: Option<u32>,
    pipelines: Option<u32>,
    #[serde(deserialize_with = "duration_key")]
    queue_timeout: Option<Duration>,
    queue_length: Option<u32>,
    #[serde(deserialize_with = "duration_key")]
    connect_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration_key")]
    statement_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration_key")]
    idle_in_transaction_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration_key")]
    max_lifetime: Option<Duration>,
    #[serde(deserialize_with = "duration_key")]
    idle_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration_key")]
    check_delay: Option<Duration>,
    statement_cache: StatementCacheTable,
    prepared: Option<bool>,
    total_max_size: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct StatementCacheTable {
    entries: Option<u32>,
    #[serde(deserialize_with = "size_key")]
    bytes: Option<u64>,
}

impl File {
    fn parse(text: &str, name: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            // The parser's own display quotes the line, which may hold what should not be shown.
            let line = error.span().map_or(1, |at| 1 + text[..at.start].matches('\n').count());
            let refused =
                Error::config(format!("{name}, line {line}")).because(error.message().to_owned());
            if error.message().starts_with("unknown field `password`") {
                refused.hint(
                    "a password is not kept here: use passfile, password_file or HOWDAH_PASSWORD",
                )
            } else {
                refused
            }
        })
    }

    fn into_config(self, folder: &Path) -> Config {
        let Self { catalog, auth, pool } = self;
        let path = |path: Option<PathBuf>| path.map(|path| folder.join(path));
        Config {
            dsn: catalog.dsn,
            map_cache: path(catalog.map_cache),
            passfile: path(auth.passfile),
            password_file: path(auth.password_file),
            password: None,
            sslmode: auth.sslmode,
            sslrootcert: path(auth.sslrootcert),
            sslcert: path(auth.sslcert),
            sslkey: path(auth.sslkey),
            owner: auth.owner,
            mover: auth.mover,
            max_size: pool.max_size,
            min_idle: pool.min_idle,
            pipelines: pool.pipelines,
            queue_timeout: pool.queue_timeout,
            queue_length: pool.queue_length,
            connect_timeout: pool.connect_timeout,
            statement_timeout: pool.statement_timeout,
            idle_in_transaction_timeout: pool.idle_in_transaction_timeout,
            max_lifetime: pool.max_lifetime,
            idle_timeout: pool.idle_timeout,
            check_delay: pool.check_delay,
            statement_cache_entries: pool.statement_cache.entries,
            statement_cache_bytes: pool.statement_cache.bytes,
            prepared: pool.prepared,
            total_max_size: pool.total_max_size,
        }
    }
}

fn number<T: FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::config(format!("{text:?} is not a number in range")))
}

fn duration(text: &str) -> Result<Duration> {
    humantime::parse_duration(text).map_err(|error| {
        Error::config(format!("{text:?} is not a duration"))
            .because(error)
            .hint("write it like \"5s\", \"250ms\" or \"1h\"")
    })
}

fn size(text: &str) -> Result<u64> {
    text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| {
        Error::config(format!("{text:?} is not a size"))
            .hint("write it like \"16MiB\" or \"64KiB\"")
    })
}

fn key<'de, T, D: Deserializer<'de>>(
    deserializer: D,
    parse: fn(&str) -> Result<T>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map(Some).map_err(D::Error::custom)
}

fn duration_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    key(deserializer, duration)
}

fn size_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    key(deserializer, size)
}

fn sslmode_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SslMode>, D::Error> {
    key(deserializer, SslMode::from_str)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Config> {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Config::new("postgres://app@db1/d").overridden(variables)
    }

    #[test]
    fn variables_override_what_the_file_says() {
        let config = with(&[
            ("HOWDAH_CATALOG_DSN", "postgres://app@db9/d"),
            ("HOWDAH_POOL_MAX_SIZE", "7"),
            ("HOWDAH_POOL_QUEUE_TIMEOUT", "1500ms"),
            ("HOWDAH_POOL_STATEMENT_CACHE_BYTES", "1MiB"),
            ("HOWDAH_POOL_PREPARED", "false"),
            ("HOWDAH_AUTH_SSLMODE", "disable"),
            ("HOWDAH_PASSWORD", "hunter2"),
            ("HOWDAH_PG_BIN", "not ours to judge"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        let settings = config.settings().unwrap();
        assert_eq!(settings.catalog.to_string(), "postgres://app@db9/d");
        assert_eq!(settings.pool.max_size, 7);
        assert_eq!(settings.pool.queue_timeout, Duration::from_millis(1500));
        assert_eq!(settings.pool.statement_cache.bytes, 1 << 20);
        assert_eq!(settings.pool.statement_cache.entries, 1000);
        assert!(!settings.pool.prepared);
        let password = settings.auth.passwords.password_for("db9", 5432, "d", "app").unwrap();
        assert_eq!(password.unwrap().reveal(), "hunter2");
        assert!(!format!("{config:?} {settings:?}").contains("hunter2"));
    }

    #[test]
    fn a_variable_that_is_misspelt_or_malformed_is_named() {
        for (name, value) in [
            ("HOWDAH_POOL_MAXSIZE", "7"),
            ("HOWDAH_POOL_MAX_SIZE", "many"),
            ("HOWDAH_POOL_MAX_SIZE", "-1"),
            ("HOWDAH_POOL_PREPARED", "no"),
            ("HOWDAH_POOL_IDLE_TIMEOUT", "soon"),
            ("HOWDAH_AUTH_SSLMODE", "prefer"),
        ] {
            let error = with(&[(name, value)]).unwrap_err();
            assert!(error.is_config() && error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_not_utf_8_is_named_if_it_is_ours() {
        let broken = |name: &str| {
            let variable = (OsString::from(name), OsString::from_vec(vec![0xff]));
            Config::new("postgres://app@db1/d").overridden([variable].into_iter())
        };
        for ours in ["HOWDAH_PASSWORD", "HOWDAH_CATALOG_DSN", "HOWDAH_AUTH_SSLKEY"] {
            let error = broken(ours).unwrap_err();
            assert!(error.is_config() && error.to_string().contains(ours), "{error}");
        }
        for other in ["LANG", "HOWDAH_PG_BIN"] {
            assert!(broken(other).is_ok(), "{other}");
        }
        let name = (OsString::from_vec(vec![b'A', 0xff]), OsString::new());
        assert!(Config::new("postgres://app@db1/d").overridden([name].into_iter()).is_ok());
    }
}
