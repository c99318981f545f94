//! Points change hands between users on different shards while processes and servers are killed: none is lost or made, what
//! was acknowledged is there, what was refused is not, and nothing stays prepared.
//!
//! `make torture` makes it a longer run.
#![cfg(test)]

mod torture;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Config, Migrations, Outcome, Result, ShardId, Statement};
use torture::Random;

const TABLES: &str = "
    CREATE TABLE accounts (account bigint PRIMARY KEY, points bigint NOT NULL CHECK (points >= 0));
    CREATE TABLE transfers (id bigint, account bigint REFERENCES accounts, PRIMARY KEY (id, account))";
const OPEN: Statement = Statement::new("INSERT INTO {shard}.accounts VALUES ($1, 1000)");
const CHANGE: Statement =
    Statement::new("UPDATE {shard}.accounts SET points = points + $2 WHERE account = $1");
const NOTE: Statement = Statement::new("INSERT INTO {shard}.transfers VALUES ($1, $2)");
const POINTS: Statement = Statement::new("SELECT points FROM {shard}.accounts");
const NOTES: Statement = Statement::new("SELECT id FROM {shard}.transfers");

const SHARDS: u16 = 4;
const ACCOUNTS: i64 = 16;
const PROCESSES: usize = 3;
/// Transfers at once in each process.
const TASKS: u64 = 4;
/// Transfers that are acknowledged between two kills, so that there is something to disturb.
const BETWEEN: usize = 40;
/// Kills of a process or a server, in a short run and in a long one.
const KILLS: [u32; 2] = [14, 400];

/// Moves a point from one account to another one on another shard, and leaves a note with both.
async fn transfer(cluster: &Cluster, id: i64, from: i64, to: i64) -> Result<()> {
    let shard_of = |account: i64| ShardId::new((account % i64::from(SHARDS)).try_into().unwrap());
    let (giver, taker) = (cluster.shard(shard_of(from)?)?, cluster.shard(shard_of(to)?)?);
    cluster
        .transaction(async |tx| {
            for (shard, account, change) in [(&giver, from, -1_i64), (&taker, to, 1)] {
                let tx = tx.on(shard).await?;
                tx.execute(&CHANGE, &[&account, &change]).await?;
                tx.execute(&NOTE, &[&id, &account]).await?;
            }
            Ok(())
        })
        .await
}

/// Transfers for ever, and says what became of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that the test below starts and kills"]
async fn transfers_until_killed() {
    let catalog = env::var("TRANSFER_CATALOG").unwrap();
    let config = || Config::new(catalog.as_str()).max_size(8).pipelines(0).min_idle(0);
    let cluster = loop {
        if let Ok(cluster) = Cluster::connect(config()).await {
            break cluster;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let process: u64 = env::var("TRANSFER_PROCESS").unwrap().parse().unwrap();
    let tasks = (0..TASKS).map(|task| {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            let mut random = Random::new(process * TASKS + task);
            for count in 0.. {
                let id = ((process * TASKS + task) << 32 | count).cast_signed();
                let from = i64::try_from(random.below(16)).unwrap();
                let to = (from + 1 + i64::try_from(random.below(3)).unwrap()) % ACCOUNTS;
                let became = match transfer(&cluster, id, from, to).await {
                    Ok(()) => "done",
                    Err(error) if error.outcome() == Outcome::Unknown => "unknown",
                    Err(_) => "refused",
                };
                println!("\n{became} {id}");
                if became != "done" {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
    });
    futures_util::future::join_all(tasks).await;
}

/// A process that transfers, until dropped.
struct Process(Child);

impl Process {
    fn start(catalog: &str, number: u64, told: &Sender<(String, i64)>) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "transfers_until_killed", "--ignored", "--nocapture"])
            .env("TRANSFER_CATALOG", catalog)
            .env("TRANSFER_PROCESS", number.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (output, told) = (BufReader::new(child.stdout.take().unwrap()), told.clone());
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(std::result::Result::ok) {
                let line = String::from_utf8_lossy(&line);
                // The last line of a process that was killed may be cut off: it ends in no newline, and says too little.
                let Some((became, id)) = line.split_once(' ') else { continue };
                if ["done", "unknown", "refused"].contains(&became)
                    && let Ok(id) = id.parse()
                {
                    let _ = told.send((became.to_owned(), id));
                }
            }
        });
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the processes said of each transfer.
#[derive(Default)]
struct Told {
    done: BTreeSet<i64>,
    refused: BTreeSet<i64>,
}

impl Told {
    fn take(&mut self, (became, id): (String, i64)) {
        match became.as_str() {
            "done" => drop(self.done.insert(id)),
            "refused" => drop(self.refused.insert(id)),
            _ => {}
        }
    }

    /// Hears until so many more are done.
    fn hear(&mut self, heard: &Receiver<(String, i64)>, more: usize) {
        let enough = self.done.len() + more;
        while self.done.len() < enough {
            self.take(heard.recv_timeout(Duration::from_secs(60)).expect("transfers go on"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_point_is_lost_or_made_whoever_is_killed() -> Result<()> {
    let mut random = Random::of_this_run();
    let tables = Migrations::new([("0001_accounts.sql", TABLES)])?;
    let builder = TestCluster::builder().shards(SHARDS).own_servers();
    let mut test = builder.migrations(tables).start().await?;
    let cluster = test.cluster().await?;
    for account in 0..ACCOUNTS {
        let shard = ShardId::new((account % i64::from(SHARDS)).try_into().unwrap())?;
        cluster.shard(shard)?.execute(&OPEN, &[&account]).await?;
    }

    let catalog = test.servers().dsn("pg1", "howdah_app")?;
    let (tell, heard) = mpsc::channel();
    let mut started = 0;
    let mut start = || {
        started += 1;
        Process::start(&catalog, started, &tell)
    };
    let mut processes: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    let mut told = Told::default();
    for kill in 0..KILLS[usize::from(torture::is_long())] {
        told.hear(&heard, BETWEEN + random.below(20));
        if kill % 4 == 3 {
            let server = ["pg1", "pg2"][random.below(2)];
            test.kill(server).await?;
            test.start_server(server).await?;
        } else {
            processes[random.below(PROCESSES)] = start();
        }
    }
    drop(processes);
    drop(tell);
    heard.iter().for_each(|line| told.take(line));

    // Sessions of the dead may still be ending.
    let cluster = test.cluster().await?;
    let mut recovered = (0, 0);
    let _ = until("nothing stays prepared", async || {
        let done = cluster.recover(Duration::ZERO).await;
        recovered = (recovered.0 + done.committed, recovered.1 + done.rolled_back);
        (done.left.is_empty() && done.unreachable.is_empty(), done)
    })
    .await;
    assert!(cluster.in_doubt().await.parts.is_empty());
    println!(
        "{} done, {} refused; left behind and committed, rolled back: {recovered:?}",
        told.done.len(),
        told.refused.len()
    );

    let mut notes = BTreeMap::<i64, u32>::new();
    for (_, row) in cluster.scatter(&NOTES).all(&[]).rows().await?.rows {
        *notes.entry(row.get(0)).or_default() += 1;
    }
    let torn: Vec<_> = notes.iter().filter(|(_, count)| **count != 2).collect();
    assert!(torn.is_empty(), "on one shard and not on the other: {torn:?}");
    let lost: Vec<_> = told.done.iter().filter(|id| !notes.contains_key(id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let ghosts: Vec<_> = told.refused.iter().filter(|id| notes.contains_key(id)).collect();
    assert!(ghosts.is_empty(), "refused and done all the same: {ghosts:?}");
    let points = cluster.scatter(&POINTS).all(&[]).rows().await?;
    let total: i64 = points.rows.iter().map(|(_, row)| row.get::<_, i64>(0)).sum();
    assert_eq!(total, 1000 * ACCOUNTS);
    Ok(())
}
