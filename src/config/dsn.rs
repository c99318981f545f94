//! The address of an instance: a `postgres://` URL without a password.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use tokio_postgres::config::Host;

use crate::{Error, Result};

/// What may follow the `?`: tuning of the connection. Everything else is said elsewhere, once.
const ALLOWED: [&str; 8] = [
    "application_name",
    "channel_binding",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "options",
    "tcp_user_timeout",
];

/// The port where a URL names none.
const PORT: u16 = 5432;

/// The address of an instance: a `postgres://user@host1,host2:5433/database` URL.
///
/// With several hosts, whichever of them is the primary is the instance. A Unix socket's folder is written with its
/// slashes encoded: `postgres://app@%2Frun%2Fpostgresql/app`. A password in it is refused, and so is `sslmode`: both
/// belong to the [`Config`](crate::Config), which is not passed around as freely as an address.
///
/// # Examples
///
/// ```
/// use howdah::Dsn;
///
/// let dsn: Dsn = "postgres://howdah_app@db1,db2/app".parse()?;
/// assert_eq!(dsn.to_string(), "postgres://howdah_app@db1,db2/app");
///
/// let refused = "postgres://howdah_app:hunter2@db1/app".parse::<Dsn>().unwrap_err();
/// assert!(refused.is_config() && !refused.to_string().contains("hunter2"));
/// # Ok::<(), howdah::Error>(())
/// ```
#[derive(Clone)]
pub struct Dsn {
    /// As it was written: it holds no secret.
    text: Arc<str>,
    config: Arc<tokio_postgres::Config>,
}

impl Dsn {
    /// The driver's form of it, to which the connector adds what the configuration says.
    pub(crate) fn driver_config(&self) -> tokio_postgres::Config {
        tokio_postgres::Config::clone(&self.config)
    }

    /// The role that it names.
    pub(crate) fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// The database that it names.
    pub(crate) fn dbname(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// Its hosts and their ports, in order; a Unix socket as the path of its folder.
    pub fn hosts(&self) -> impl ExactSizeIterator<Item = (String, u16)> {
        let ports = self.config.get_ports();
        self.config.get_hosts().iter().enumerate().map(move |(i, host)| {
            // One port may stand for all hosts.
            let port = ports.get(i).or_else(|| ports.first().filter(|_| ports.len() == 1));
            (host_name(host), port.copied().unwrap_or(PORT))
        })
    }

    /// Whether its first host is a name, which may lead to several servers, or to another one tomorrow.
    pub(crate) fn is_name(&self) -> bool {
        matches!(self.config.get_hosts().first(), Some(Host::Tcp(name)) if name.parse::<IpAddr>().is_err())
    }

    /// Whether its first host is a Unix socket.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self.config.get_hosts().first(), Some(Host::Unix(_)))
    }

    /// Whether it has this option.
    pub(crate) fn says(&self, option: &str) -> bool {
        Parts::of(&self.text).is_ok_and(|parts| parts.options().any(|named| named == option))
    }

    /// Whether every one of its hosts is on this machine, so that nobody can listen in on the way.
    pub(crate) fn is_local(&self) -> bool {
        self.config.get_hosts().iter().all(|host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        })
    }

    /// The same servers and database, as another role.
    pub(crate) fn with_user(&self, user: &str) -> Result<Self> {
        let Parts { hosts, rest, .. } = Parts::of(&self.text)?;
        format!("postgres://{}@{hosts}{rest}", encoded(user)).parse()
    }

    /// The same role and database, on one of its hosts alone.
    pub(crate) fn with_host(&self, host: &str, port: u16) -> Result<Self> {
        let Parts { user, rest, .. } = Parts::of(&self.text)?;
        let host = if host.contains(':') { format!("[{host}]") } else { encoded(host) };
        format!("postgres://{user}@{host}:{port}{rest}").parse()
    }
}

impl FromStr for Dsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let parts = Parts::of(text)?;
        if parts.user.contains(':') {
            return Err(password_in_dsn());
        }
        for option in parts.options() {
            match option {
                "password" => return Err(password_in_dsn()),
                "sslmode" | "sslrootcert" | "sslcert" | "sslkey" => {
                    return Err(Error::config(format!("a dsn must not say {option}"))
                        .hint(format!("set {option} in [auth]")));
                }
                known if ALLOWED.contains(&known) => {}
                other => {
                    return Err(Error::config(format!("a dsn has no option {other:?}"))
                        .hint(format!("it may have {}", ALLOWED.join(", "))));
                }
            }
        }
        // The driver's message names options and never their values; the password was ruled out above.
        let config: tokio_postgres::Config =
            text.parse().map_err(|error| not_a_dsn().because(error))?;
        if config.get_hosts().is_empty() {
            return Err(not_a_dsn().because("it names no host"));
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err(not_a_dsn().because("it names no user"));
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(not_a_dsn().because("it names no database"));
        }
        Ok(Self { text: text.into(), config: config.into() })
    }
}

/// The text of a URL, cut where its parts meet.
struct Parts<'a> {
    user: &'a str,
    hosts: &'a str,
    /// The database and the options, from the slash on.
    rest: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self> {
        let after_scheme = text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"))
            .ok_or_else(not_a_dsn)?;
        let (user, address) =
            after_scheme.split_once('@').ok_or_else(|| not_a_dsn().because("it names no user"))?;
        if address.contains('@') && user.contains(':') {
            return Err(password_in_dsn());
        }
        let (hosts, rest) = address.split_at(address.find(['/', '?']).unwrap_or(address.len()));
        Ok(Self { user, hosts, rest })
    }

    fn options(&self) -> impl Iterator<Item = &'a str> {
        let options = self.rest.split_once('?').map_or("", |(_, options)| options);
        options
            .split('&')
            .filter(|option| !option.is_empty())
            .map(|option| option.split_once('=').map_or(option, |(name, _)| name))
    }
}

fn not_a_dsn() -> Error {
    Error::config("the dsn is not a connection URL")
        .hint("write it as postgres://user@host:port/database")
}

fn password_in_dsn() -> Error {
    Error::config("a dsn must not hold a password, because addresses are shown and stored")
        .hint("use a passfile, a password_file or HOWDAH_PASSWORD")
}

fn host_name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => Path::display(folder).to_string(),
    }
}

/// Percent-encodes whatever has a meaning of its own in a URL.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
        url
    })
}

impl PartialEq for Dsn {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Dsn {}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dsn(text: &str) -> Dsn {
        text.parse().unwrap()
    }

    #[test]
    fn it_knows_its_hosts_user_and_database() {
        let dsn = dsn("postgres://app@db1,db2:5433/photos?application_name=api");
        assert_eq!(dsn.user(), "app");
        assert_eq!(dsn.dbname(), "photos");
        assert_eq!(
            dsn.hosts().collect::<Vec<_>>(),
            [("db1".to_owned(), 5432), ("db2".to_owned(), 5433)]
        );
    }

    #[test]
    fn another_role_and_a_single_host_keep_the_rest() {
        let dsn = dsn("postgresql://app@db1,db2:5433/photos?application_name=api");
        let owner = dsn.with_user("the owner").unwrap();
        assert_eq!(owner.user(), "the owner");
        assert_eq!(
            owner.to_string(),
            "postgres://the%20owner@db1,db2:5433/photos?application_name=api"
        );
        let second = dsn.with_host("db2", 5433).unwrap();
        assert_eq!(second.to_string(), "postgres://app@db2:5433/photos?application_name=api");
    }

    #[test]
    fn sockets_and_loopback_are_local_and_one_remote_host_is_not() {
        for local in [
            "postgres://a@%2Ftmp%2Fsocket:5433/d",
            "postgres://a@localhost/d",
            "postgres://a@127.0.0.2/d",
            "postgres://a@[::1]:5432/d",
        ] {
            assert!(dsn(local).is_local(), "{local}");
        }
        assert!(!dsn("postgres://a@127.0.0.1,db2/d").is_local());
        let socket = dsn("postgres://a@%2Ftmp%2Fsocket:5433/d");
        assert_eq!(socket.hosts().collect::<Vec<_>>(), [("/tmp/socket".to_owned(), 5433)]);
        let (host, port) = socket.hosts().next().unwrap();
        assert_eq!(socket.with_host(&host, port).unwrap(), socket);
        let six = dsn("postgres://a@[::1]:5433/d");
        let (host, port) = six.hosts().next().unwrap();
        assert_eq!(six.with_host(&host, port).unwrap(), six);
    }

    #[test]
    fn a_password_is_refused_and_never_repeated() {
        for text in [
            "postgres://app:hunter2@db/d",
            "postgres://app:hunter2@ss@db/d",
            "postgres://app:hunter2%40@db:notaport/d",
            "postgres://app@db/d?password=hunter2",
            "postgres://app@db/d?application_name=x&password=hunter2",
            "host=db user=app password=hunter2",
        ] {
            let error = text.parse::<Dsn>().unwrap_err();
            assert!(error.is_config(), "{text}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_or_out_of_place_is_named() {
        for (text, named) in [
            ("db1/app", "postgres://user@host"),
            ("postgres://db1/app", "no user"),
            ("postgres://app@db1", "no database"),
            ("postgres://app@/d", "host"),
            ("postgres://app@db1/d?sslmode=disable", "[auth]"),
            ("postgres://app@db1/d?host=db2", "\"host\""),
            ("postgres://app@db1:99999/d", "port"),
        ] {
            let error = text.parse::<Dsn>().unwrap_err();
            assert!(error.is_config() && error.to_string().contains(named), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_refused(text in r"(postgres://)?[ -~é]{0,40}") {
            if let Ok(dsn) = text.parse::<Dsn>() {
                prop_assert_eq!(dsn.to_string().parse::<Dsn>().unwrap(), dsn);
            }
        }

        #[test]
        fn any_role_can_be_put_in(user in "[ -~é]{1,20}") {
            let other = dsn("postgres://a@db1,db2:5433/d?application_name=x").with_user(&user).unwrap();
            prop_assert_eq!(other.user(), user);
            prop_assert_eq!(other.hosts().len(), 2);
        }
    }
}
