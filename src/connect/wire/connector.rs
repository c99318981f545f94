//! How a wire gets between the driver and its socket.
//!
//! The driver lets others handle its bytes only as TLS. So a connection that is not encrypted is passed off as one that is,
//! begun without asking the server; what is then sent is plain.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Config, Socket};

use super::super::tls::Tls;
use super::Wire;
use super::stream::Stream;

type Encrypted = <Tls as MakeTlsConnect<Socket>>::Stream;
type Encrypting = <Tls as MakeTlsConnect<Socket>>::TlsConnect;

/// Makes a connection that goes through a wire.
#[derive(Debug, Clone)]
pub(in crate::connect) struct Wired {
    /// None where it is plain.
    tls: Option<Tls>,
    wire: Arc<Wire>,
}

impl Wired {
    /// With the driver set up for it. `has_name`: the server's address is a name or a number, and not a file.
    pub(in crate::connect) fn new(driver: &mut Config, tls: &Tls, has_name: bool) -> Self {
        let is_plain = driver.get_ssl_mode() == SslMode::Disable;
        if is_plain && has_name {
            driver.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        }
        Self::with(Wire { is_plain, ..Wire::default() }, tls)
    }

    /// For another connection of a driver that was set up for one.
    pub(in crate::connect) fn as_before(wire: &Wire, tls: &Tls) -> Self {
        Self::with(Wire { is_plain: wire.is_plain, ..Wire::default() }, tls)
    }

    fn with(wire: Wire, tls: &Tls) -> Self {
        Self { tls: (!wire.is_plain).then(|| tls.clone()), wire: wire.into() }
    }

    pub(in crate::connect) fn wire(&self) -> Arc<Wire> {
        self.wire.clone()
    }
}

impl MakeTlsConnect<Socket> for Wired {
    type Stream = Stream<Carrier>;
    type TlsConnect = Connecting;
    type Error = <Tls as MakeTlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Connecting, Self::Error> {
        let tls = self.tls.as_mut().map(|tls| tls.make_tls_connect(domain)).transpose()?;
        Ok(Connecting { tls, wire: self.wire.clone() })
    }
}

/// One connection that is about to be made.
pub(in crate::connect) struct Connecting {
    tls: Option<Encrypting>,
    wire: Arc<Wire>,
}

impl TlsConnect<Socket> for Connecting {
    type Stream = Stream<Carrier>;
    type Error = <Encrypting as TlsConnect<Socket>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let carrier = match self.tls {
                Some(tls) => Carrier::Encrypted(Box::new(tls.connect(socket).await?)),
                None => Carrier::Plain(socket),
            };
            Ok(Stream::new(carrier, self.wire))
        })
    }
}

/// What carries the bytes.
pub(in crate::connect) enum Carrier {
    Plain(Socket),
    Encrypted(Box<Encrypted>),
}

impl AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, into),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl TlsStream for Carrier {
    fn channel_binding(&self) -> ChannelBinding {
        match self {
            Self::Plain(_) => ChannelBinding::none(),
            Self::Encrypted(stream) => stream.channel_binding(),
        }
    }
}
