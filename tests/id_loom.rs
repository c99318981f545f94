//! Every interleaving of threads that share a generator's state, by loom, on the very file that ships.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

#[path = "../src/id/ticks.rs"]
mod ticks;

use ticks::Ticks;

/// Each thread draws by clocks of its own, which stand, step on or step back.
fn draw_in_threads<const DRAWS: usize, const THREADS: usize>(clocks: [[u64; DRAWS]; THREADS]) {
    loom::model(move || {
        let ticks = Arc::new(Ticks::after(4));
        let draw = |ticks: &Ticks, clocks: [u64; DRAWS]| {
            let drawn = clocks.map(|clock| ticks.draw(clock, u64::MAX).unwrap());
            assert!(drawn.is_sorted_by(|a, b| a < b), "a thread's own increase: {drawn:?}");
            drawn
        };
        let [here, elsewhere @ ..] = &clocks[..] else { return };
        let threads: Vec<_> = elsewhere
            .iter()
            .map(|&clocks| {
                let ticks = Arc::clone(&ticks);
                thread::spawn(move || draw(&ticks, clocks))
            })
            .collect();
        let mut drawn = draw(&ticks, *here).to_vec();
        drawn.extend(threads.into_iter().flat_map(|thread| thread.join().unwrap()));
        drawn.sort_unstable();
        assert!(drawn.is_sorted_by(|a, b| a < b), "none is drawn twice: {drawn:?}");
        assert!(drawn[0] > 4, "none is before the start: {drawn:?}");
        assert_eq!(Some(&ticks.last()), drawn.last());
    });
}

#[test]
fn two_threads_draw_different_ticks() {
    draw_in_threads([[7, 7], [7, 8]]);
    draw_in_threads([[9, 3], [0, 9]]);
}

#[test]
fn three_threads_draw_different_ticks() {
    draw_in_threads([[7], [6], [7]]);
}

#[test]
fn a_refused_draw_changes_nothing() {
    loom::model(|| {
        let ticks = Arc::new(Ticks::after(4));
        let other = Arc::clone(&ticks);
        let thread = thread::spawn(move || other.draw(0, 5));
        let outcomes = [ticks.draw(0, 5), thread.join().unwrap()];
        assert!(matches!(outcomes, [Ok(5), Err(6)] | [Err(6), Ok(5)]), "{outcomes:?}");
        assert_eq!(ticks.last(), 5);
    });
}
