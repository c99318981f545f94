//! Eight sessions draw a million ids from one shard while its clock is set back and forth, they are cancelled and
//! killed, and the server too. Committed ids are distinct, increase in each session, and are later than whatever was
//! handed out before they were asked for; and at the end they still flow.
#![cfg(test)]

mod clock;
mod torture;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use clock::{SCHEMA, next_id, number, one_instance, set_the_clock, take_the_clock};
use futures_util::future::join_all;
use howdah::postgres::{Client, NoTls};
use howdah::testing::TestCluster;
use torture::Random;

const SESSIONS: i32 = 8;
const MILLION: usize = 1_000_000;
/// How many millions are drawn, in a short run and in a long one.
const MILLIONS: [usize; 2] = [1, 5];
/// How often a process or the server is killed, and how long a draw may take, each for a million.
const KILLS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(900);

/// What all sessions have seen.
#[derive(Default)]
struct Seen {
    /// The greatest id that any of them was handed.
    greatest: AtomicI64,
    count: AtomicUsize,
    failures: AtomicUsize,
    done: AtomicBool,
}

async fn connect(dsn: &str) -> Option<Client> {
    let (client, connection) = howdah::postgres::connect(dsn, NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// One session: draws in batches of many sizes, and goes on with a new connection when one fails.
async fn draw(dsn: String, session: i32, seen: &Seen) -> Vec<i64> {
    let sql = format!(
        "WITH made AS (INSERT INTO {SCHEMA}.ids (session) SELECT $1 FROM generate_series(1, $2) RETURNING id)
         SELECT array_agg(id) FROM made"
    );
    let mut random = Random::new(session.unsigned_abs().into());
    let mut mine: Vec<i64> = Vec::new();
    let mut client = None;
    while !seen.done.load(SeqCst) {
        let Some(connected) = &client else {
            client = connect(&dsn).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let size = [1, 1, 10, 500, 1000][random.below(5)];
        let floor = seen.greatest.load(SeqCst);
        match Client::query_one(connected, &sql, &[&session, &size]).await {
            Ok(row) => {
                let ids: Vec<i64> = row.get(0);
                assert!(ids[0] > floor, "{} was asked for after {floor} was handed out", ids[0]);
                seen.greatest.fetch_max(ids[ids.len() - 1], SeqCst);
                seen.count.fetch_add(ids.len(), SeqCst);
                mine.extend(ids);
            }
            Err(error) => {
                seen.failures.fetch_add(1, SeqCst);
                if error.code().is_none_or(|code| code.code() != "57014") {
                    client = None;
                }
            }
        }
    }
    mine
}

/// How many statements have to fail; a quick machine has its ids before.
const FELT: usize = 50;

/// Sets the clock, cancels and kills, until enough ids were drawn and enough faults were felt.
async fn disturb(test: &mut TestCluster, seen: &Seen, millions: usize) {
    let mut random = Random::of_this_run();
    let (wanted, all_kills) = (MILLION * millions, KILLS * millions);
    let patience = PATIENCE * u32::try_from(millions).unwrap();
    let started = Instant::now();
    let mut kills = 0;
    let felt = || seen.failures.load(SeqCst) >= FELT;
    while seen.count.load(SeqCst) < wanted || kills < all_kills || !felt() {
        assert!(started.elapsed() < patience, "ids stopped: {:?}", seen.count);
        tokio::time::sleep(Duration::from_millis(30)).await;
        let Ok(admin) = test.admin("pg1").await else { continue };
        let victim = format!(
            "(SELECT pid FROM pg_stat_activity WHERE usename = 'howdah_app' ORDER BY pid OFFSET {} LIMIT 1)",
            random.below(8)
        );
        match random.below(12) {
            0..=2 => {
                // Back and forth, by less than a burst may run ahead and by much more.
                let steps = [-120_000, -700, 0, 300, 60_000];
                let step = steps[random.below(5)];
                let sql = format!("SELECT setval('howdah.test_offset_ms', {step})");
                let _ = admin.batch_execute(&sql).await;
            }
            3..=9 => {
                drop(admin.batch_execute(&format!("SELECT pg_cancel_backend({victim})")).await)
            }
            10 => {
                drop(admin.batch_execute(&format!("SELECT pg_terminate_backend({victim})")).await)
            }
            // A dead backend takes all sessions with it; a dead server too. By turns, spread over the run.
            _ if seen.count.load(SeqCst) * (all_kills + 1) / wanted > kills
                && kills < all_kills =>
            {
                if kills % 2 == 0 {
                    let Ok(row) = admin.query_one(&victim, &[]).await else { continue };
                    let pid: i32 = row.get(0);
                    let killed =
                        std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
                    // It may have ended by itself.
                    if !killed.unwrap().success() {
                        continue;
                    }
                } else {
                    test.kill("pg1").await.unwrap();
                    // Not at once, on a busy machine: its last processes may still be ending.
                    while let Err(error) = test.start_server("pg1").await {
                        assert!(started.elapsed() < patience, "{error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                kills += 1;
            }
            _ => {}
        }
    }
    seen.done.store(true, SeqCst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_ids_survive_everything() {
    let mut test = one_instance().own_servers().start().await.unwrap();
    let admin = test.admin("pg1").await.unwrap();
    take_the_clock(&admin).await;
    let dsn = test.servers().dsn("pg1", "howdah_app").unwrap();
    let seen = Seen::default();
    let sessions = (0..SESSIONS).map(|session| draw(dsn.clone(), session, &seen));
    let millions = MILLIONS[usize::from(torture::is_long())];
    let (drawn, ()) = tokio::join!(join_all(sessions), disturb(&mut test, &seen, millions));

    for mine in &drawn {
        assert!(mine.is_sorted_by(|a, b| a < b), "each session's increase");
        assert!(mine.len() > MILLION / 100, "each session gets its share: {}", mine.len());
    }
    let mut all: Vec<i64> = drawn.into_iter().flatten().collect();
    all.sort_unstable();
    assert!(all.len() >= MILLION * millions && all.is_sorted_by(|a, b| a < b), "all are distinct");

    // Also those whose replies were lost.
    let admin = test.admin("pg1").await.unwrap();
    admin.batch_execute("SET work_mem = '100MB'").await.unwrap();
    let repeated = format!("SELECT count(*) - count(DISTINCT id) FROM {SCHEMA}.ids");
    assert_eq!(number(&admin, &repeated).await, 0);
    set_the_clock(&admin, -3_600_000).await;
    let client = test.servers().client("pg1", "howdah_app").await.unwrap();
    assert!(next_id(&client).await.get() > all[all.len() - 1], "and they still flow");
}
