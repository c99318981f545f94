//! Requests that take too long: whoever sent one learns whether it may have been done.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use howdah::Statement;

use crate::client::{Api, Reply, id, request};

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

#[tokio::test]
async fn uploads_that_get_stuck_are_nobody_elses_trouble() {
    const BEGINNING: &str =
        "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.jpg\"\r\n\r\nhalf";

    let api = Api::start().await;
    let (zoe, ada) = (api.user("zoe").await, api.user("ada").await);
    let half = || {
        let request = request(Method::POST, "/api/photos", Some(&zoe));
        let request = request.header(CONTENT_TYPE, "multipart/form-data; boundary=x");
        api.send(request.body(stuck(BEGINNING)).unwrap())
    };
    let others = async {
        // All of zoe's are on their way by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = Instant::now();
        api.upload(&ada, "").await;
        assert!(asked.elapsed() < Duration::from_secs(5), "after {:?}", asked.elapsed());
    };
    let (late, ()) = tokio::join!(join_all((0..20).map(|_| half())), others);
    let kinds: Vec<_> = late.iter().map(Reply::problem).collect();
    let of = |kind| kinds.iter().filter(|one| *one == kind).count();
    assert_eq!((of("too-slow"), of("busy")), (4, 16), "{kinds:?}");
    assert_eq!(api.files().len(), 3);
    api.upload(&zoe, "").await;
}
