//! The routes and their description are the same, in both directions.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use photo_api::routes;

use crate::client::{Api, request};
use crate::description::DESCRIPTION;

#[test]
fn every_route_is_described_and_every_description_has_a_route() {
    let served: BTreeSet<_> = routes().into_iter().map(|(path, _)| path.to_owned()).collect();
    let described: BTreeSet<_> =
        DESCRIPTION["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(served, described);
}

#[tokio::test]
async fn every_method_is_described_and_every_described_method_is_served() {
    let api = Api::start().await;
    for (path, operations) in DESCRIPTION["paths"].as_object().unwrap() {
        let some = path.replace("{name}", "nobody").replace("{id}", "1").replace("{code}", "B");
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let described = operations[method.as_str().to_lowercase()].is_object();
            let reply = request(method.clone(), &some, None).body(Body::empty()).unwrap();
            let reply = api.send_unchecked(reply).await;
            let served = reply.status != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(served, described, "{method} {path}");
            assert!(!reply.status.is_server_error(), "{method} {path}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn the_document_is_served_and_says_what_its_problems_mean() {
    let api = Api::start().await;
    let served = api.get("/openapi.json", None).await.expect(200).json();
    assert_eq!(served, *DESCRIPTION);
    let kinds = &served["components"]["schemas"]["Problem"]["properties"]["type"]["enum"];
    for kind in kinds.as_array().unwrap() {
        let explained = api.get(kind.as_str().unwrap(), None).await.expect(200).json();
        assert_eq!(explained["type"], *kind);
    }
    assert_eq!(api.get("/problems/bad-luck", None).await.expect(404).problem(), "not-found");
}

#[tokio::test]
async fn what_has_no_route_is_a_problem_or_a_page_about_it() {
    let api = Api::start().await;
    let send = |method, path: &'static str| {
        api.send_unchecked(request(method, path, None).body(Body::empty()).unwrap())
    };
    assert_eq!(send(Method::GET, "/api/nothing").await.expect(404).problem(), "not-found");
    let refused = send(Method::PATCH, "/api/feed").await.expect(405);
    assert_eq!(refused.problem(), "method-not-allowed");
    assert_eq!(refused.header("allow"), "GET,HEAD");
    let page = send(Method::GET, "/nothing").await.expect(404);
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
    let page = send(Method::GET, "/logout").await.expect(405);
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
}

#[tokio::test]
async fn a_draining_server_is_alive_and_not_ready() {
    let api = Api::start().await;
    api.get("/healthz", None).await.expect(200);
    api.get("/readyz", None).await.expect(200);
    api.state.drain();
    api.get("/healthz", None).await.expect(200);
    let refused = api.get("/readyz", None).await.expect(503);
    assert_eq!(refused.problem(), "draining");
    assert_eq!(refused.header("retry-after"), "1");
}
