//! Plain connections, for a build without the feature `tls`.

use tokio_postgres::tls::{MakeTlsConnect, NoTlsStream, TlsConnect};
use tokio_postgres::{NoTls, Socket};

use crate::Result;
use crate::config::Auth;

/// `NoTls`, as a type that is handled like the encrypted one.
#[derive(Debug, Clone)]
pub(in crate::connect) struct Tls;

impl MakeTlsConnect<Socket> for Tls {
    type Stream = NoTlsStream;
    type TlsConnect = NoTls;
    type Error = <NoTls as TlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, _: &str) -> Result<NoTls, Self::Error> {
        Ok(NoTls)
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "with the feature `tls`, certificates may be unreadable"
)]
pub(in crate::connect) fn connector(_: &Auth) -> Result<Tls> {
    Ok(Tls)
}
