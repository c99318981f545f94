//! Whether a connection is encrypted, and by what.
//!
//! An address on this machine is plain unless the configuration names an `sslmode`; any other is verified in
//! full unless the configuration says otherwise in so many words. Nothing falls back to plain text.

#[cfg(feature = "tls")]
mod encrypted;
#[cfg(not(feature = "tls"))]
mod plain;
#[cfg(feature = "tls")]
mod verifier;

#[cfg(feature = "tls")]
pub(super) use encrypted::{Tls, connector};
#[cfg(not(feature = "tls"))]
pub(super) use plain::{Tls, connector};

use crate::config::SslMode;

/// What the driver has to be told: it encrypts or not, and the rest is the stream's.
pub(super) fn driver_mode(mode: SslMode) -> tokio_postgres::config::SslMode {
    match mode {
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        _ => tokio_postgres::config::SslMode::Require,
    }
}
