//! The clock's accuracy: how far ids run ahead of the time or behind it, and what they do when it is set.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

mod clock;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clock::{
    SCHEMA, app, lead_ms, next_id, number, one_instance, set_the_clock, take_the_clock, with_layout,
};
use futures_util::future::join_all;
use howdah::postgres::Client;
use howdah::testing::until;

const HOUR_MS: i64 = 3_600_000;

/// How many sessions hold the lock under which blocks are opened.
const LOCKS: &str = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
                     WHERE locktype = 'advisory' AND classid = 1752135524 AND datname = current_database()";

/// Waits until a session draws ids of the present.
async fn catches_up(client: &Client) {
    until("ids have caught up with the clock", async || {
        let lead = lead_ms(next_id(client).await);
        (lead > -150, lead)
    })
    .await;
}

async fn no_lock_is_held(client: &Client) {
    until("no lock is held", async || number(client, LOCKS).await == 0).await;
}

async fn lead(client: &Client) -> i64 {
    number(client, &format!("SELECT howdah.clock_lead_ms('{SCHEMA}.howdah_block')")).await
}

#[tokio::test]
async fn ids_follow_a_clock_that_is_set_forward() {
    let test = one_instance().start().await.unwrap();
    let admin = test.admin("pg1").await.unwrap();
    take_the_clock(&admin).await;
    let client = app(&test).await;
    next_id(&client).await;
    set_the_clock(&admin, HOUR_MS).await;
    let ahead = lead_ms(next_id(&client).await);
    assert!((HOUR_MS - 2000..=HOUR_MS).contains(&ahead), "{ahead}");
}

/// Far ahead of a clock that was set back, ids flow on at full speed, in order, and it is told how far ahead they are.
#[tokio::test]
async fn ids_go_on_when_the_clock_is_set_back_by_an_hour() {
    let test = one_instance().start().await.unwrap();
    let admin = test.admin("pg1").await.unwrap();
    take_the_clock(&admin).await;
    let client = app(&test).await;
    let before = next_id(&client).await;
    set_the_clock(&admin, -HOUR_MS).await;
    let started = Instant::now();
    let first =
        number(&client, &format!("SELECT min({SCHEMA}.next_id()) FROM generate_series(1, 20000)"))
            .await;
    assert!(first > before.get());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let ahead = lead(&admin).await;
    assert!((HOUR_MS - 10_000..=HOUR_MS + 2000).contains(&ahead), "{ahead}");

    // The clock comes back, and so do the ids to it.
    set_the_clock(&admin, 5000).await;
    assert!(lead_ms(next_id(&client).await) > 3000);
}

/// A burst is slowed to the clock's pace once it is a second ahead: each millisecond's ids wait for one. The clock is set back to
/// get there, and a millisecond has few ids, as no machine of a few cores draws faster than 1,024.
#[tokio::test]
async fn a_burst_waits_for_the_clock_a_second_ahead() {
    let (servers, client) = with_layout("sequence=4".parse().unwrap()).await;
    let admin = servers.admin("pg1").await.unwrap();
    take_the_clock(&admin).await;
    next_id(&client).await;
    set_the_clock(&admin, -2000).await;
    let before = lead(&admin).await;
    // Several take part, and keep one pace.
    let sessions =
        join_all((0..4).map(|_| async { servers.client("pg1", "howdah_app").await.unwrap() }))
            .await;
    let burst = format!("SELECT max({SCHEMA}.next_id()) FROM generate_series(1, 4000)");
    join_all(sessions.iter().map(|session| number(session, &burst))).await;
    let after = lead(&admin).await;
    assert!(after <= before, "a thousand milliseconds' ids: {before}, {after}");

    // Within the second nobody waits: a burst gets ahead. Not on a machine that is busy just then, so it may try again.
    until("a burst gets ahead", async || {
        let offset_ms = number(&admin, "SELECT last_value FROM howdah.test_offset_ms").await;
        set_the_clock(&admin, offset_ms + lead(&admin).await - 300).await;
        number(&client, &format!("SELECT max({SCHEMA}.next_id()) FROM generate_series(1, 8000)"))
            .await;
        let ahead = lead(&admin).await;
        (ahead > 400, ahead)
    })
    .await;
}

/// While somebody keeps the lock, be it an application that took our key by mistake, ids lag behind the clock; at the open
/// block's end they wait. When the lock is free they go on, and have caught up.
#[tokio::test]
async fn ids_lag_while_the_lock_is_kept_and_then_catch_up() {
    let test = one_instance().start().await.unwrap();
    let squatter = app(&test).await;
    let oid =
        number(&squatter, &format!("SELECT '{SCHEMA}.howdah_block'::regclass::oid::bigint")).await;
    squatter
        .query_one(&format!("SELECT pg_advisory_lock(1752135524, {oid})::text"), &[])
        .await
        .unwrap();

    let client = app(&test).await;
    let first = next_id(&client).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let second = next_id(&client).await;
    assert!(second > first);
    assert!(lead_ms(second) <= -250, "{}", lead_ms(second));

    let (other, admin) = (app(&test).await, test.admin("pg1").await.unwrap());
    let burst = tokio::spawn(async move {
        number(&other, &format!("SELECT max({SCHEMA}.next_id()) FROM generate_series(1, 2000)"))
            .await
    });
    until("the burst waits at the end of the block", async || {
        number(&admin, &LOCKS.replace("WHERE", "WHERE NOT granted AND")).await == 1
    })
    .await;
    drop(squatter);
    assert!(burst.await.unwrap() > second.get());
    catches_up(&client).await;
}

/// An open transaction that has opened a block holds up no other: neither its ids nor their time.
#[tokio::test]
async fn an_open_transaction_keeps_no_lock() {
    let test = one_instance().start().await.unwrap();
    let (one, other) = (app(&test).await, app(&test).await);
    one.batch_execute(&format!("BEGIN; SELECT {SCHEMA}.next_id()")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    catches_up(&other).await;
    no_lock_is_held(&other).await;
    one.batch_execute("COMMIT").await.unwrap();
}

/// Cancelled at any point, a caller leaves the clock as good as it was.
#[tokio::test]
async fn a_cancel_leaks_nothing() {
    let test = one_instance().start().await.unwrap();
    let admin = test.admin("pg1").await.unwrap();
    take_the_clock(&admin).await;
    let sessions = join_all((0..3).map(|_| app(&test))).await;
    let cancelled = AtomicU32::new(0);
    let enough = || cancelled.load(Relaxed) > 300;
    let draw = async |client: &Client| {
        // Every statement opens a block: each moves the clock on for the others.
        let sql =
            format!("SELECT {SCHEMA}.next_id(), pg_sleep(0.0002) FROM generate_series(1, 200)");
        while !enough() {
            if client.query(&sql, &[]).await.is_err() {
                cancelled.fetch_add(1, Relaxed);
            }
        }
    };
    let cancel = until("they were cancelled often", async || {
        let sql = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                   WHERE usename = 'howdah_app' AND state = 'active' AND datname = current_database()";
        number(&admin, sql).await;
        (enough(), cancelled.load(Relaxed))
    });
    tokio::join!(join_all(sessions.iter().map(draw)), cancel);
    no_lock_is_held(&admin).await;
    set_the_clock(&admin, HOUR_MS).await;
    assert!(lead_ms(next_id(&sessions[0]).await) > HOUR_MS - 2000, "blocks are still opened");
}
