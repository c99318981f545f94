//! What does it cost to move a shard live? How long its clients wait, against the same clients while nothing moves; what the
//! clients of other shards lose; and how fast it is copied, against `pg_dump | psql` and plain logical replication of the
//! same schema.
//!
//! Clients work without a pause, on both servers' machine, so they leave no processor idle. The copy of `copy one large` is
//! everything up to the verification, with all indexes (`move_ms` is the whole move); the time of `copy 32 small` is that of
//! whole moves. A peer's copy is not compared with what it was made of, and nobody can tell it from its original.

#[path = "move/arena.rs"]
mod arena;
#[path = "move/clients.rs"]
mod clients;
#[path = "move/peers.rs"]
mod peers;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use arena::Arena;
use howdah::{Mover, ShardId};
use howdah_benches::{Bench, Result, Sample, Unit, full_or_quick};
use peers::Peer;
use tokio::time::sleep;

/// Photos of the shard that moves under load, and of the large one; the small ones have as many together.
const BUSY_ROWS: u32 = 100_000;
const LARGE_ROWS: u32 = 1_000_000;
const LARGE_ROWS_QUICK: u32 = 100_000;

/// Small shards that are moved at once.
const PARALLEL: usize = 4;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let mut bench = Bench::new("move");
    let arena = Arena::open().await?;
    bench.note("postgres", arena.version().await?);
    bench.note("fsync", "off");
    let (busy, large, small) = (arena.shard(1)?, arena.shard(0)?, arena.small()?);
    let large_rows = full_or_quick(LARGE_ROWS, LARGE_ROWS_QUICK);
    arena.fill(busy, BUSY_ROWS).await?;
    arena.fill(large, large_rows).await?;
    for shard in arena.neighbours()?.iter().chain(&small) {
        arena.fill(*shard, large_rows / 32).await?;
    }
    stall(&mut bench, &arena, busy).await?;
    neighbours(&mut bench, &arena, busy).await?;
    copy_one_large(&mut bench, &arena, large, large_rows).await?;
    copy_32_small(&mut bench, &arena, &small).await?;
    bench.write()
}

/// How long the clients of a shard wait while it moves back and forth.
async fn stall(bench: &mut Bench, arena: &Arena, shard: ShardId) -> Result<()> {
    let mover = Mover::new(&arena.config())?;
    let sample = |stalls: Vec<Duration>| {
        let longest = stalls.iter().max().copied().unwrap_or_default();
        let sample = Sample::new(longest.as_secs_f64() * 1e3).times("stall", stalls);
        sample.figure("rows", f64::from(BUSY_ROWS)).figure("think_ms", 0.0)
    };
    // How long each move took: as often, and for as long, the clients are looked at while nothing moves.
    let lengths = RefCell::new(Vec::new());
    let ours = async || {
        let clients = arena.load(&[shard]).await?;
        let (mut fences, mut stalls, mut took) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..full_or_quick(12, 2) {
            let began = Instant::now();
            let moved = mover.run(shard, &arena.elsewhere(shard).await?).await?;
            took.push(began.elapsed());
            fences.extend(moved.fence);
            stalls.push(clients.longest_stall());
        }
        lengths.replace(took.clone());
        let sample = sample(stalls).times("fence", fences).count("moves", took.len() as u64);
        clients.stop(sample.times("move", took)).await
    };
    let theirs = async || {
        let clients = arena.load(&[shard]).await?;
        let lengths = lengths.borrow().clone();
        let mut stalls = Vec::new();
        for length in lengths {
            sleep(length).await;
            stalls.push(clients.longest_stall());
        }
        clients.stop(sample(stalls)).await
    };
    bench.compare("stall", "no move", Unit::Time("ms"), ours, theirs).await?;
    if let Some(open) = mover.open_move(shard).await? {
        mover.finish(open.id).await?;
    }
    Ok(())
}

/// What the clients of other shards on both instances get done while one is moved.
async fn neighbours(bench: &mut Bench, arena: &Arena, shard: ShardId) -> Result<()> {
    let mover = Mover::new(&arena.config())?.reverse(false);
    let others = arena.neighbours()?;
    let length = RefCell::new(Duration::ZERO);
    let ours = async || {
        let clients = arena.load(&others).await?;
        let began = Instant::now();
        mover.run(shard, &arena.elsewhere(shard).await?).await?;
        let sample =
            Sample::new(clients.rate()).times("move", vec![length.replace(began.elapsed())]);
        clients.stop(sample.figure("rows", f64::from(BUSY_ROWS))).await
    };
    let theirs = async || {
        let clients = arena.load(&others).await?;
        let length = *length.borrow();
        sleep(length).await;
        let sample = Sample::new(clients.rate());
        clients.stop(sample).await
    };
    bench.compare("neighbours", "no move", Unit::Rate("statements/s"), ours, theirs).await
}

async fn copy_one_large(bench: &mut Bench, arena: &Arena, shard: ShardId, rows: u32) -> Result<()> {
    let mover = Mover::new(&arena.config())?.reverse(false);
    let rate = |took: Duration| Sample::new(f64::from(rows) / took.as_secs_f64());
    for peer in Peer::ALL {
        let ours = async || {
            let began = Instant::now();
            let moved = mover.run(shard, &arena.elsewhere(shard).await?).await?;
            let whole = began.elapsed();
            Ok(rate(moved.copy.unwrap_or(whole)).times("move", vec![whole]))
        };
        let theirs = async || Ok(rate(peer.copy(arena, &[shard]).await?));
        bench.compare("copy one large", peer.name(), Unit::Rate("rows/s"), ours, theirs).await?;
    }
    Ok(())
}

async fn copy_32_small(bench: &mut Bench, arena: &Arena, shards: &[ShardId]) -> Result<()> {
    let mover = Mover::new(&arena.config())?.reverse(false);
    for peer in Peer::ALL {
        let ours = async || {
            let to = arena.elsewhere(shards[0]).await?;
            let began = Instant::now();
            let moved = mover.run_all(shards, &to, PARALLEL).await;
            let moves: Vec<_> =
                moved.into_iter().map(|(_, moved)| moved).collect::<howdah::Result<_>>()?;
            let sample = Sample::new(began.elapsed().as_secs_f64());
            let copies = moves.iter().filter_map(|moved| moved.copy).collect();
            Ok(sample.times("copy", copies).figure("parallel", PARALLEL as f64))
        };
        let theirs = async || Ok(Sample::new(peer.copy(arena, shards).await?.as_secs_f64()));
        bench.compare("copy 32 small", peer.name(), Unit::Time("s"), ours, theirs).await?;
    }
    Ok(())
}
