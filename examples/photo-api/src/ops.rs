//! What operators look at, on a listener of its own: `/metrics` for Prometheus, and `/ops` for people.

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use howdah::Mover;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::App;
use crate::{pages, web};

/// The format that Prometheus asks for.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Sight {
    app: App,
    metrics: PrometheusHandle,
}

/// The operators' service. It changes nothing, and shows no user's data; still it is nobody else's business.
pub fn ops(app: App, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/metrics", get(numbers))
        .route("/ops", get(page))
        .route("/assets/{name}", get(web::asset))
        .with_state(Sight { app, metrics })
}

async fn numbers(State(sight): State<Sight>) -> Response {
    ([(CONTENT_TYPE, TEXT)], sight.metrics.render()).into_response()
}

async fn page(State(sight): State<Sight>) -> Response {
    let cluster = &sight.app.cluster;
    let (status, moves) = tokio::join!(cluster.status(), Mover::open_moves(cluster));
    let page = pages::ops(&status, moves.as_deref(), &cluster.stats());
    ([(CONTENT_SECURITY_POLICY, pages::CONTENT_SECURITY_POLICY)], page).into_response()
}
