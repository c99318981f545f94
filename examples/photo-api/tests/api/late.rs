//! Requests that take too long: whoever sent one learns whether it may have been done.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use futures_util::stream::{self, StreamExt as _};
use howdah::Statement;

use crate::client::{Api, id, request};

/// A body that begins and does not go on.
fn stuck(beginning: &'static str) -> Body {
    let beginning = Ok::<_, Infallible>(Bytes::from_static(beginning.as_bytes()));
    Body::from_stream(stream::iter([beginning]).chain(stream::pending()))
}

#[tokio::test]
async fn a_write_that_runs_late_may_have_been_done() {
    const HOLD: Statement = Statement::new("SELECT FROM {shard}.photos WHERE id = $1 FOR UPDATE");

    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let photo = id(&api.upload(&zoe, "").await);
    let holder = api.cluster.shard_of_id(photo).unwrap().begin().await.unwrap();
    holder.tx().query_one(&HOLD, &[&photo]).await.unwrap();

    let late = api.put(&format!("/api/photos/{photo}/like"), &zoe).await.expect(503);
    assert_eq!(late.problem(), "outcome-unknown");
    holder.rollback().await.unwrap();
}

#[tokio::test]
async fn nothing_is_done_for_a_body_that_does_not_arrive() {
    let api = Api::start().await;
    let json = request(Method::POST, "/api/users", None).header(CONTENT_TYPE, "application/json");
    let json = json.body(stuck(r#"{"name":"ada","#)).unwrap();
    assert_eq!(api.send(json).await.expect(408).problem(), "too-slow");
    api.get("/api/users/ada", None).await.expect(404);
}
