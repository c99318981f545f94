//! What operators see, and nobody else.

use axum::body::Body;
use axum::http::Request;
use howdah::testing::until;
use howdah::{InstanceName, Mover, ShardId};
use metrics_exporter_prometheus::PrometheusBuilder;
use photo_api::ops;
use tower::ServiceExt as _;

use crate::client::Api;

async fn seen(router: &axum::Router, path: &str) -> (u16, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn operators_see_instances_shards_and_connections_and_the_numbers_of_each_instance() {
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    let api = Api::start().await;
    api.get("/api/users/nobody", None).await.expect(404);
    let operators = ops(api.state.clone(), metrics);

    let (status, page) = seen(&operators, "/ops").await;
    assert_eq!(status, 200);
    assert_eq!(page.matches("class=\"shard hue-").count(), 4 + 2, "a square a shard, and a legend");
    for part in ["pg1", "pg2", "primary", "4 shards on 2 instances", "No shard is on its way"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    // The pools tell how they are every second.
    let numbers = until("a pool's numbers are there", async || {
        let (status, numbers) = seen(&operators, "/metrics").await;
        assert_eq!(status, 200);
        (numbers.contains("howdah_pool_size{instance=\"pg1\",host=\"primary\"}"), numbers)
    })
    .await;
    assert!(
        numbers.contains("howdah_statement_seconds") && !numbers.contains("shard="),
        "{numbers}"
    );

    // A move that has not ended.
    let mover = Mover::new(&api.test.config()).unwrap();
    let pg1 = InstanceName::new("pg1").unwrap();
    let moved = mover.run(ShardId::new(1).unwrap(), &pg1).await.unwrap();
    let (status, page) = seen(&operators, "/ops").await;
    assert_eq!(status, 200);
    for part in [">m1<", ">reversible<", &format!(">{}<", moved.rows)] {
        assert!(page.contains(part), "{part}: {page}");
    }
    mover.finish(moved.id).await.unwrap();
    assert!(seen(&operators, "/ops").await.1.contains("No shard is on its way"));

    // What users see is elsewhere, and they see nothing of this.
    assert_eq!(seen(&operators, "/api/feed").await.0, 404);
    assert_eq!(
        api.send_unchecked(Request::get("/ops").body(Body::empty()).unwrap()).await.status,
        404
    );
}
