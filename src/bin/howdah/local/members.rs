//! The cluster's instances on these servers: where they listen now, and those that it has not got yet.

use std::time::{Duration, Instant};

use howdah::local::{LocalCluster, Server};
use howdah::{Cluster, Config, Dsn, Instance, InstanceName, Instances, NewInstance};

use crate::failure::Result;

/// How long another change of the cluster is waited for: the last one was ours, and its lock is gone when the server notices.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// How applications reach an instance: its primary, or else a replica that was promoted.
pub(super) fn address(local: &LocalCluster, name: &str) -> Result<Dsn> {
    let hosts: Vec<_> =
        servers_of(local, name).map(|server| format!("127.0.0.1:{}", server.port())).collect();
    let dsn = local.server(name)?.dsn("howdah_app");
    Ok(dsn.replacen(&hosts[0], &hosts.join(","), 1).parse()?)
}

/// Tells the catalog where servers listen whose ports somebody had taken.
pub(super) async fn readdress(
    local: &LocalCluster,
    config: &Config,
    cluster: &Cluster,
) -> Result<()> {
    let moved: Vec<_> = cluster
        .instances()
        .into_iter()
        .filter(|instance| has_moved(local, instance))
        .map(|instance| instance.name().clone())
        .collect();
    if moved.is_empty() {
        return Ok(());
    }
    let mut instances = open(config).await?;
    for name in moved {
        instances.readdress(&name, &address(local, name.as_str())?).await?;
    }
    Ok(())
}

/// Makes servers instances of the cluster that are none yet.
pub(super) async fn add(
    local: &LocalCluster,
    config: &Config,
    cluster: &Cluster,
    wanted: impl Iterator<Item = String>,
) -> Result<()> {
    let there = cluster.instances();
    let is_there = |name: &String| there.iter().any(|known| known.name().as_str() == name);
    let missing: Vec<_> = wanted.filter(|name| !is_there(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut instances = open(config).await?;
    for name in missing {
        let instance = NewInstance::new(InstanceName::new(&name)?, address(local, &name)?);
        instances.add(&instance).await?;
    }
    Ok(())
}

async fn open(config: &Config) -> howdah::Result<Instances> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match Instances::open(config).await {
            Err(error) if error.is_refused() && Instant::now() < give_up => {
                tokio::time::sleep(PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// Whether the catalog leads to ports of this machine that are not the instance's any more.
fn has_moved(local: &LocalCluster, instance: &Instance) -> bool {
    let ports: Vec<_> =
        servers_of(local, instance.name().as_str()).map(|server| server.port()).collect();
    let is_local = instance.dsn().hosts().all(|(host, _)| host == "127.0.0.1");
    is_local && !ports.is_empty() && instance.dsn().hosts().any(|(_, port)| !ports.contains(&port))
}

/// The server that was made the primary, then its replicas, which one may have promoted since.
fn servers_of<'a>(local: &'a LocalCluster, name: &'a str) -> impl Iterator<Item = &'a Server> {
    local.servers().iter().filter(move |server| server.instance() == name)
}
