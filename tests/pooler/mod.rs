//! A pooler that loses its server under a request, and keeps its client.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use howdah::testing::TestCluster;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What the client is told: an error, and that it may go on outside of any transaction.
const LOST: &[u8] = b"E\0\0\0\x2fSERROR\0VERROR\0C08006\0Mthe server was lost\0\0Z\0\0\0\x05I";

/// Every instance's connections that are made from now on go through it.
pub(crate) struct Pooler {
    loses_next: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
    accepting: AbortHandle,
}

impl Pooler {
    /// Before an instance. The requests that it can lose the answer to have this text in them.
    pub(crate) async fn before(test: &TestCluster, instance: &str, request: &'static str) -> Self {
        let server = test.servers().server(instance).unwrap().port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (port, database) = (listener.local_addr().unwrap().port(), test.servers().database());
        let set = format!(
            "UPDATE howdah.instance SET dsn = 'postgres://howdah_app@127.0.0.1:{port}/{database}' \
             WHERE name = '{instance}'"
        );
        test.admin("pg1").await.unwrap().batch_execute(&set).await.unwrap();
        let loses_next = Arc::new(AtomicBool::new(false));
        let refuses = Arc::new(AtomicBool::new(false));
        let (loses, refused) = (loses_next.clone(), refuses.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
                tokio::spawn(carry(client, server, request, loses.clone(), refused.clone()));
            }
        });
        Self { loses_next, refuses, accepting: accepting.abort_handle() }
    }

    /// The next such request is done, and its answer lost.
    pub(crate) fn lose_the_next(&self) {
        self.loses_next.store(true, Ordering::SeqCst);
    }

    /// From now on such requests do not reach the server, or do again.
    #[allow(dead_code, reason = "not in every test")]
    pub(crate) fn refuse(&self, refuse: bool) {
        self.refuses.store(refuse, Ordering::SeqCst);
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    request: &'static str,
    loses_next: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
) {
    let (mut sent, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let (mut is_answered, mut is_lost) = (true, false);
    loop {
        tokio::select! {
            length = client.read(&mut sent) => {
                let Ok(length @ 1..) = length else { return };
                let piece = &sent[..length];
                if piece.windows(request.len()).any(|part| part == request.as_bytes()) {
                    if refuses.load(Ordering::SeqCst) {
                        if client.write_all(LOST).await.is_err() { return; }
                        continue;
                    }
                    if loses_next.swap(false, Ordering::SeqCst) {
                        // The server sends an error ahead of the rest of its answer, and the client may go on at once.
                        while !is_answered {
                            let Ok(length @ 1..) = server.read(&mut answered).await else { return };
                            is_answered = ends_an_answer(&answered[..length]);
                            if client.write_all(&answered[..length]).await.is_err() { return; }
                        }
                        is_lost = true;
                    }
                }
                is_answered = false;
                if server.write_all(piece).await.is_err() { return; }
            }
            length = server.read(&mut answered) => {
                let Ok(length @ 1..) = length else { return };
                is_answered = ends_an_answer(&answered[..length]);
                let piece = match is_lost {
                    true if !is_answered => continue,
                    true => LOST,
                    false => &answered[..length],
                };
                is_lost = false;
                if client.write_all(piece).await.is_err() { return; }
            }
        }
    }
}

/// Whether the server says last that it is ready for the next request.
fn ends_an_answer(piece: &[u8]) -> bool {
    piece.len() > 5 && piece[piece.len() - 6..].starts_with(b"Z\0\0\0\x05")
}
