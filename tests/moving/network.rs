//! A network whose links can be cut one by one, between a mover, two servers and the catalog. Clients have one of their own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use howdah::testing::{Proxy, TestCluster};
use howdah::{Config, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// Who talks to whom in a move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Link {
    MoverToSource,
    MoverToTarget,
    MoverToCatalog,
    /// The stream of the copy.
    TargetToSource,
    /// The stream back.
    SourceToTarget,
}

impl Link {
    pub(crate) const ALL: [Self; 5] = [
        Self::MoverToSource,
        Self::MoverToTarget,
        Self::MoverToCatalog,
        Self::TargetToSource,
        Self::SourceToTarget,
    ];
}

/// The proxies before each server.
pub(crate) struct Network {
    /// For movers, and for the other servers.
    links: BTreeMap<String, (Proxy, Proxy)>,
    catalog: Proxy,
    config: Config,
}

impl Network {
    /// Lays it before the servers of a cluster that nobody has connected to yet. The catalog is on pg1.
    pub(crate) async fn lay(test: &TestCluster) -> Result<Self> {
        let servers = test.servers();
        let (admin, database) = (test.admin("pg1").await?, servers.database());
        let mut links = BTreeMap::new();
        for name in servers.names() {
            let port = servers.server(name)?.port();
            let (movers, peers) = (Proxy::start(port).await?, Proxy::start(port).await?);
            let fork = fork(port, movers.port()).await;
            let dsn =
                |user: &str, port: u16| format!("postgres://{user}@127.0.0.1:{port}/{database}");
            let dsns = [dsn("howdah_app", fork), dsn("howdah_mover", peers.port())];
            let laid = "UPDATE howdah.instance SET dsn = $2, peer_dsn = $3 WHERE name = $1";
            admin.execute(laid, &[&name, &dsns[0], &dsns[1]]).await.unwrap();
            links.insert(name.to_owned(), (movers, peers));
        }
        let catalog = Proxy::start(servers.server("pg1")?.port()).await?;
        let dsn = format!("postgres://howdah_app@127.0.0.1:{}/{database}", catalog.port());
        Ok(Self { links, catalog, config: Config::new(dsn) })
    }

    /// The configuration of movers.
    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }

    /// A link, in a move between these two instances.
    pub(crate) fn link(&self, link: Link, source: &str, target: &str) -> &Proxy {
        match link {
            Link::MoverToSource => &self.links[source].0,
            Link::MoverToTarget => &self.links[target].0,
            Link::MoverToCatalog => &self.catalog,
            Link::TargetToSource => &self.links[source].1,
            Link::SourceToTarget => &self.links[target].1,
        }
    }
}

/// A port from which applications reach one port and everybody else another. Who it is says the first message: the role is in it.
async fn fork(applications: u16, others: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut message = [0; 512];
                let length = client.peek(&mut message).await.unwrap_or(0);
                let role = b"howdah_app\0";
                let is_application = message[..length].windows(role.len()).any(|at| at == role);
                let port = if is_application { applications } else { others };
                if let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    port
}
