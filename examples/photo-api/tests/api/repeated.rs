//! `Idempotency-Key`: a request whose answer was lost is sent again.

use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use howdah::Statement;
use serde_json::json;

use crate::client::{Api, Form, Reply, User, id, picture, request};

async fn upload(api: &Api, user: &User, key: &str, caption: &str) -> Reply {
    let form = Form::new().file("image", &picture()).text("caption", caption);
    let request = request(Method::POST, "/api/photos", Some(user)).header("idempotency-key", key);
    api.send(form.finish(request)).await
}

async fn comment(api: &Api, user: &User, photo: &str, key: &str, text: &str) -> Reply {
    let path = format!("/api/photos/{photo}/comments");
    let request = request(Method::POST, &path, Some(user))
        .header("idempotency-key", key)
        .header(CONTENT_TYPE, "application/json");
    api.send(request.body(json!({ "text": text }).to_string().into()).unwrap()).await
}

#[tokio::test]
async fn an_upload_sent_again_makes_one_photo() {
    let api = Api::start().await;
    let (zoe, ada) = (api.user("zoe").await, api.user("ada").await);
    let first = upload(&api, &zoe, "k", "one").await.expect(201).json();
    assert_eq!(upload(&api, &zoe, "k", "one").await.expect(201).json(), first);
    let refused = upload(&api, &zoe, "k", "another").await.expect(422);
    assert_eq!(refused.problem(), "idempotency-key-reused");
    upload(&api, &ada, "k", "one").await.expect(201);
    upload(&api, &zoe, "l", "one").await.expect(201);
    assert_eq!(api.all("/api/users/zoe/photos", None, 20).await.len(), 2);

    api.delete(&format!("/api/photos/{}", id(&first)), &zoe).await.expect(204);
    assert_eq!(upload(&api, &zoe, "k", "one").await.expect(410).problem(), "gone");
}

#[tokio::test]
async fn uploads_at_the_same_moment_make_one_photo() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let at_once = (0..4).map(|_| upload(&api, &zoe, "k", "one"));
    let replies = futures_util::future::join_all(at_once).await;
    let made: Vec<_> = replies.into_iter().map(|reply| reply.expect(201).json()).collect();
    assert!(made.iter().all(|photo| photo == &made[0]), "{made:?}");
    assert_eq!(api.get("/api/users/zoe", None).await.json()["photos"], 1);
    assert_eq!(api.files().len(), 3);
}

#[tokio::test]
async fn a_comment_sent_again_is_said_once() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let (one, other) = (api.upload(&zoe, "").await, api.upload(&zoe, "").await);
    let (one, other) = (id(&one).to_string(), id(&other).to_string());

    let first = comment(&api, &zoe, &one, "k", "hm").await.expect(201).json();
    assert_eq!(comment(&api, &zoe, &one, "k", " hm ").await.expect(201).json(), first);
    comment(&api, &zoe, &one, "k", "hm!").await.expect(422);
    // A key is good for one photo: clients may number what they do.
    comment(&api, &zoe, &other, "k", "hm!").await.expect(201);
    let seen = api.get(&format!("/api/photos/{one}"), None).await.json();
    assert_eq!(seen["comments"], 1);
}

#[tokio::test]
async fn what_failed_may_be_tried_again_with_its_key() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let photo = id(&api.upload(&zoe, "").await).to_string();
    comment(&api, &zoe, &photo, "k", "  ").await.expect(400);
    comment(&api, &zoe, &photo, "k", "hm").await.expect(201);
    for _ in 0..2 {
        assert_eq!(comment(&api, &zoe, "1", "k", "hm").await.status, StatusCode::NOT_FOUND);
    }
    let form = || Form::new().file("image", b"no picture");
    for _ in 0..2 {
        let request = request(Method::POST, "/api/photos", Some(&zoe));
        let request = form().finish(request.header("idempotency-key", "k"));
        api.send(request).await.expect(422);
    }
    upload(&api, &zoe, "k", "").await.expect(201);
}

#[tokio::test]
async fn a_key_is_good_for_a_day() {
    const AGE: Statement = Statement::new("UPDATE {shard}.idempotency_keys SET created_at = $1");

    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let shard = api.cluster.shard_for_key("zoe");
    let first = upload(&api, &zoe, "k", "one").await.expect(201).json();
    let then = chrono::Utc::now() - chrono::TimeDelta::hours(23);
    shard.execute(&AGE, &[&then]).await.unwrap();
    assert_eq!(upload(&api, &zoe, "k", "one").await.expect(201).json(), first);
    upload(&api, &zoe, "k", "another").await.expect(422);

    let then = chrono::Utc::now() - chrono::TimeDelta::hours(25);
    shard.execute(&AGE, &[&then]).await.unwrap();
    let another = upload(&api, &zoe, "k", "another").await.expect(201).json();
    assert_eq!(another["caption"], "another");
}

#[tokio::test]
async fn what_failed_leaves_its_key_to_others() {
    const KEYS: Statement = Statement::new("SELECT count(*) FROM {shard}.idempotency_keys");

    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let photo = id(&api.upload(&zoe, "").await).to_string();
    api.delete(&format!("/api/photos/{photo}"), &zoe).await.expect(204);
    comment(&api, &zoe, &photo, "k", "hm").await.expect(404);
    let keys = api.cluster.scatter(&KEYS).all(&[]).rows().await.unwrap().rows;
    assert!(keys.iter().all(|(_, row)| row.get::<_, i64>(0) == 0));
}
