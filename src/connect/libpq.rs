//! How PostgreSQL's own programs, and its servers among each other, reach an instance.

use std::fmt::Write as _;

use tokio::process::Command;

use super::{Connector, Role};
use crate::config::Dsn;
use crate::program::undirect;
use crate::{Error, Result};

/// What a program with libpq needs to log in: a connection string without a secret, and the environment.
pub(crate) struct Libpq {
    pub(crate) conninfo: String,
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Libpq {
    /// Has a program log in this way, and no other.
    pub(crate) fn lead(self, program: &mut Command) {
        undirect(program);
        program.envs(self.environment).env("PGAPPNAME", "howdah");
    }
}

impl Connector {
    /// For a program on this machine.
    ///
    /// # Errors
    ///
    /// When the password cannot be read, or the configuration allows no connection there.
    pub(crate) fn libpq(&self, dsn: &Dsn, role: Role) -> Result<Libpq> {
        let auth = &self.settings.auth;
        let dsn = self.in_role(dsn, role)?;
        let mut environment = vec![("PGSSLMODE", auth.sslmode(dsn.is_local())?.to_string())];
        let path = |path: &std::path::Path| path.display().to_string();
        if let Some(root) = &auth.sslrootcert {
            environment.push(("PGSSLROOTCERT", path(root)));
        }
        if let Some((cert, key)) = &auth.client_cert {
            environment.extend([("PGSSLCERT", path(cert)), ("PGSSLKEY", path(key))]);
        }
        if let Some((host, port)) = dsn.hosts().next() {
            let password = auth.passwords.password_for(&host, port, dsn.dbname(), dsn.user())?;
            environment.extend(password.map(|known| ("PGPASSWORD", known.reveal().to_owned())));
        }
        Ok(Libpq { conninfo: conninfo(&dsn), environment })
    }

    /// For another server, as the mover. Its password or certificate is that server's own, a passfile there, unless the
    /// password is to be part of it.
    ///
    /// # Errors
    ///
    /// When the configuration allows no connection there, or a password is wanted and there is none.
    pub(crate) fn conninfo_for_servers(&self, dsn: &Dsn, with_password: bool) -> Result<String> {
        let dsn = self.in_role(dsn, Role::Mover)?;
        let auth = &self.settings.auth;
        let mode = auth.sslmode(dsn.is_local())?;
        let mut text = format!("{} sslmode={mode} application_name=howdah", conninfo(&dsn));
        if let (true, Some((host, port))) = (with_password, dsn.hosts().next()) {
            let known = auth.passwords.password_for(&host, port, dsn.dbname(), dsn.user())?;
            let known = known.ok_or_else(|| {
                Error::config(format!("no password is known for {} on {host}:{port}", dsn.user()))
                    .hint(
                        "who subscribes and is no superuser must have one: name it in the passfile",
                    )
            })?;
            // Writing to a string does not fail.
            let _ = write!(text, " password={}", quoted(known.reveal()));
        }
        Ok(text)
    }
}

/// A value as a connection string has it.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn conninfo(dsn: &Dsn) -> String {
    let (hosts, ports): (Vec<_>, Vec<_>) =
        dsn.hosts().map(|(host, port)| (host, port.to_string())).unzip();
    let mut text = String::new();
    let values = [
        ("host", hosts.join(",")),
        ("port", ports.join(",")),
        ("dbname", dsn.dbname().to_owned()),
        ("user", dsn.user().to_owned()),
    ];
    for (key, value) in values {
        // Writing to a string does not fail.
        let _ = write!(text, "{key}={} ", quoted(&value));
    }
    text.push_str("target_session_attrs=read-write connect_timeout=10");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_odd_names_are_kept() {
        let dsn: Dsn = "postgres://it's@db1,db2:5433/the%20app".parse().unwrap();
        assert_eq!(
            conninfo(&dsn),
            r"host='db1,db2' port='5432,5433' dbname='the app' user='it\'s' target_session_attrs=read-write connect_timeout=10"
        );
    }
}
