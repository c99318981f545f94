//! The library's promise to handlers: what its closures give is `Send`, so a transaction can be written in place.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::post;
use howdah::{Cluster, Statement};
use tower::ServiceExt as _;

use crate::client::Api;

async fn rename(
    State(cluster): State<Cluster>,
    Path((from, to)): Path<(String, String)>,
) -> Result<String, StatusCode> {
    const RENAME: Statement =
        Statement::new("UPDATE {shard}.users SET email = $2 WHERE name = $1 RETURNING email");

    let shard = cluster.shard_for_key(&from);
    let row = shard.transaction(async |tx| {
        tx.execute(&RENAME, &[&from, &"on the way"]).await?;
        tx.query_one(&RENAME, &[&from, &to]).await
    });
    row.await.map(|row| row.get(0)).map_err(|_| StatusCode::NOT_FOUND)
}

#[tokio::test]
async fn a_transaction_can_be_written_inside_a_handler() {
    let api = Api::start().await;
    api.user("zoe").await;
    let router = Router::new().route("/{from}/{to}", post(rename)).with_state(api.cluster.clone());
    for (path, status) in [("/zoe/new", StatusCode::OK), ("/nobody/new", StatusCode::NOT_FOUND)] {
        let request = Request::post(path).body(Body::empty()).unwrap();
        assert_eq!(router.clone().oneshot(request).await.unwrap().status(), status);
    }
}
