//! A network that misbehaves on demand, before one server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::{Error, Result};

/// A TCP proxy on this machine that passes everything on, until it is told to do something worse.
///
/// What it is told holds for the connections that there are and for those to come. It runs in the runtime in which it was
/// started; dropped, it closes all.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> howdah::Result<()> {
/// use howdah::testing::{TestCluster, until};
/// use howdah::{ShardId, Statement};
///
/// const ONE: Statement = Statement::new("SELECT 1, {shard}.is_local(1)");
///
/// let test = TestCluster::builder().instances(1).proxies().start().await?;
/// let shard = test.cluster().await?.shard(ShardId::new(0)?)?;
/// test.proxy("pg1")?.cut();
/// assert!(shard.query(&ONE, &[]).await.unwrap_err().is_unavailable());
/// test.proxy("pg1")?.heal();
/// until("the shard is served again", async || shard.query(&ONE, &[]).await).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    mood: watch::Sender<Mood>,
    accepting: AbortHandle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Passing,
    /// Every piece arrives so much later.
    Slow(Duration),
    /// Nothing arrives, and nobody is told.
    Silent,
    /// Every connection is closed.
    Cut,
}

impl Proxy {
    /// A proxy before a port of this machine.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub async fn start(server: u16) -> Result<Self> {
        let failed = |error| Error::system("cannot start a proxy").because(error);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let mood = watch::Sender::new(Mood::Passing);
        let listening = mood.subscribe();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, listening.clone()));
            }
        });
        Ok(Self { port, mood, accepting: accepting.abort_handle() })
    }

    /// The port on which it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections, and each new one at once.
    pub fn cut(&self) {
        self.mood.send_replace(Mood::Cut);
    }

    /// Lets every piece of data arrive so much later.
    pub fn delay(&self, by: Duration) {
        self.mood.send_replace(Mood::Slow(by));
    }

    /// Lets nothing arrive any more, and tells nobody. New connections are accepted, and hear nothing.
    pub fn blackhole(&self) {
        self.mood.send_replace(Mood::Silent);
    }

    /// Passes everything on again, also what has been kept back.
    pub fn heal(&self) {
        self.mood.send_replace(Mood::Passing);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Carries one connection to its end, or until it is cut, or the proxy is dropped.
async fn carry(client: TcpStream, server: u16, mood: watch::Receiver<Mood>) {
    let mut ending = mood.clone();
    tokio::select! {
        () = pass(client, server, mood) => {}
        // An error: the proxy is gone.
        _ = ending.wait_for(|mood| *mood == Mood::Cut) => {}
    }
}

async fn pass(client: TcpStream, server: u16, mut mood: watch::Receiver<Mood>) {
    let _ = mood.wait_for(|mood| *mood != Mood::Silent).await;
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The first to end ends the other: PostgreSQL knows no half-closed connections.
    tokio::select! {
        () = pump(from_client, to_server, mood.clone()) => {}
        () = pump(from_server, to_client, mood) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mood: watch::Receiver<Mood>,
) {
    let mut piece = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let passing = mood.wait_for(|mood| *mood != Mood::Silent).await.map(|mood| *mood);
        if let Ok(Mood::Slow(by)) = passing {
            sleep(by).await;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
