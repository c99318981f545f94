//! Asynchronous work in `Drop`.

use std::future::Future;

/// Runs a future to its end from where nothing can be awaited.
pub(super) fn finish(work: impl Future<Output = ()> + Send + 'static) {
    // On a thread of its own, because the one we are on may belong to a runtime.
    let thread = std::thread::spawn(|| {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(work);
        }
    });
    let _ = thread.join();
}
