//! Every interleaving of threads that share a generator's state, by loom, on the very file that ships.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

#[path = "../src/id/greatest.rs"]
mod greatest;

use greatest::Greatest;

/// Each thread draws by clocks of its own, which stand, step on or step back.
fn draw_in_threads<const DRAWS: usize, const THREADS: usize>(clocks: [[u64; DRAWS]; THREADS]) {
    loom::model(move || {
        let ids = Arc::new(Greatest::after(4));
        let draw = |ids: &Greatest, clocks: [u64; DRAWS]| {
            let next = |last: u64, clock: u64| Ok::<_, ()>(clock.max(last + 1));
            let drawn = clocks.map(|clock| ids.draw(|last| next(last, clock)).unwrap());
            assert!(drawn.is_sorted_by(|a, b| a < b), "a thread's own increase: {drawn:?}");
            drawn
        };
        let [here, elsewhere @ ..] = &clocks[..] else { return };
        let threads: Vec<_> = elsewhere
            .iter()
            .map(|&clocks| {
                let ids = Arc::clone(&ids);
                thread::spawn(move || draw(&ids, clocks))
            })
            .collect();
        let mut drawn = draw(&ids, *here).to_vec();
        drawn.extend(threads.into_iter().flat_map(|thread| thread.join().unwrap()));
        drawn.sort_unstable();
        assert!(drawn.is_sorted_by(|a, b| a < b), "none is drawn twice: {drawn:?}");
        assert!(drawn[0] > 4, "none is before the start: {drawn:?}");
        assert_eq!(Some(&ids.last()), drawn.last());
    });
}

#[test]
fn two_threads_draw_different_ids() {
    draw_in_threads([[7, 7], [7, 8]]);
    draw_in_threads([[9, 3], [0, 9]]);
}

#[test]
fn three_threads_draw_different_ids() {
    draw_in_threads([[7], [6], [7]]);
}

#[test]
fn a_refused_draw_changes_nothing() {
    loom::model(|| {
        let ids = Arc::new(Greatest::after(4));
        let other = Arc::clone(&ids);
        let only_5 = |last| if last < 5 { Ok(last + 1) } else { Err(last + 1) };
        let thread = thread::spawn(move || other.draw(only_5));
        let outcomes = [ids.draw(only_5), thread.join().unwrap()];
        assert!(matches!(outcomes, [Ok(5), Err(6)] | [Err(6), Ok(5)]), "{outcomes:?}");
        assert_eq!(ids.last(), 5);
    });
}
