//! `/healthz` and `/readyz`: alive, and fit to be sent requests.
//!
//! A shard that is away makes nothing here unfit: everybody else is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;

use crate::App;
use crate::problem::{Kind, Problem};

/// Whether the server is on its way out: new requests should go elsewhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draining(Arc<AtomicBool>);

impl Draining {
    pub(crate) fn start(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `GET /healthz`
pub(crate) async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`
pub(crate) async fn ready(State(app): State<App>) -> Result<&'static str, Problem> {
    match app.draining.0.load(Ordering::Relaxed) {
        true => Err(Kind::Draining.into()),
        false => Ok("ready\n"),
    }
}
