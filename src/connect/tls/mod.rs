//! Whether a connection is encrypted, and by what.
//!
//! An address on this machine is plain unless the configuration names an `sslmode`; any other is verified in
//! full unless the configuration says otherwise in so many words. Nothing falls back to plain text.

#[cfg(feature = "tls")]
mod encrypted;
#[cfg(feature = "tls")]
mod verifier;

use crate::Result;
use crate::config::{Auth, SslMode};

/// What makes a connection's stream, whichever mode is on.
#[cfg(feature = "tls")]
pub(super) type Tls = encrypted::Tls;
/// What makes a connection's stream: without the feature `tls`, there are plain ones alone.
#[cfg(not(feature = "tls"))]
pub(super) type Tls = tokio_postgres::NoTls;

#[cfg(feature = "tls")]
pub(super) fn connector(auth: &Auth) -> Result<Tls> {
    encrypted::connector(auth)
}

#[cfg(not(feature = "tls"))]
#[expect(
    clippy::unnecessary_wraps,
    reason = "with the feature `tls`, certificates may be unreadable"
)]
pub(super) fn connector(_: &Auth) -> Result<Tls> {
    Ok(tokio_postgres::NoTls)
}

/// What the driver has to be told: it encrypts or not, and the rest is the stream's.
pub(super) fn driver_mode(mode: SslMode) -> tokio_postgres::config::SslMode {
    match mode {
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        _ => tokio_postgres::config::SslMode::Require,
    }
}
