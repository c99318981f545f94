//! Signing up, logging in and out, and who is let in.

use axum::body::Body;
use axum::http::Method;
use axum::http::header::{COOKIE, ORIGIN};
use howdah::{Id, Statement};
use serde_json::json;

use crate::client::{Api, User, request};

#[tokio::test]
async fn a_name_is_taken_once_in_the_whole_cluster() {
    let api = Api::start().await;
    let account = json!({ "name": "zoe_1.b", "password": "secret", "email": "zoe@example.org" });
    let zoe = api.post("/api/users", None, account.clone()).await.expect(201).json();
    assert_eq!(zoe["name"], "zoe_1.b");
    assert_eq!(api.post("/api/users", None, account).await.expect(409).problem(), "name-taken");

    let seen = api.get("/api/users/zoe_1.b", None).await.expect(200).json();
    let wanted = json!({ "id": zoe["id"], "name": "zoe_1.b",
                         "photos": 0, "followers": 0, "following": 0 });
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn an_address_signs_up_once_in_the_whole_cluster() {
    let api = Api::start().await;
    let account =
        |name: &str, email: &str| json!({ "name": name, "password": "secret", "email": email });
    api.post("/api/users", None, account("zoe", "zoe@example.org")).await.expect(201);
    for name in ["ada", "ben", "cleo", "dora"] {
        let again = api.post("/api/users", None, account(name, "Zoe@Example.org")).await;
        assert_eq!(again.expect(409).problem(), "email-taken");
        api.get(&format!("/api/users/{name}"), None).await.expect(404);
        let address = format!("{name}@example.org");
        api.post("/api/users", None, account(name, &address)).await.expect(201);
    }
}

#[tokio::test]
async fn a_user_lives_where_the_name_leads_and_nowhere_else() {
    const COUNT: Statement =
        Statement::new("SELECT count(*) FROM {shard}.users WHERE id = $1 OR name = $2");

    let api = Api::start().await;
    for name in ["ada", "ben", "cleo", "dora", "emil", "finn"] {
        let user: Id = api.user(name).await.id.parse().unwrap();
        let home = api.cluster.shard_for_key(name);
        assert_eq!(api.cluster.shard_of_id(user).unwrap().id(), home.id());
        let counts = api.cluster.scatter(&COUNT).all(&[&user, &name]).rows().await.unwrap();
        for (shard, row) in counts.rows {
            assert_eq!(row.get::<_, i64>(0), i64::from(shard == home.id()), "{name} {shard}");
        }
    }
}

#[tokio::test]
async fn a_session_lasts_until_it_is_closed() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let session = api.log_in("zoe").await.expect(201);
    let cookie = session.header("set-cookie").to_owned();
    assert!(cookie.ends_with("; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax"), "{cookie}");

    let other = User::from(session);
    assert_eq!((&other.id, &other.name), (&zoe.id, &zoe.name));
    assert_ne!(other.token, zoe.token);
    api.delete("/api/sessions", &other).await.expect(204);
    assert_eq!(api.get("/api/feed", Some(&other)).await.expect(401).problem(), "not-logged-in");
    api.delete("/api/sessions", &other).await.expect(401);
    api.get("/api/feed", Some(&zoe)).await.expect(200);
}

#[tokio::test]
async fn a_cookie_is_as_good_as_a_token() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let cookie = format!("theme=dark; session={}", zoe.token);
    let with_cookie = |method, path| request(method, path, None).header(COOKIE, &cookie);

    let feed = with_cookie(Method::GET, "/api/feed").body(Body::empty()).unwrap();
    api.send(feed).await.expect(200);

    let elsewhere = with_cookie(Method::PUT, "/api/users/zoe/follow")
        .header(ORIGIN, "https://evil.example")
        .body(Body::empty())
        .unwrap();
    assert_eq!(api.send_unchecked(elsewhere).await.expect(403).problem(), "cross-site");
}

#[tokio::test]
async fn nobody_gets_in_without_the_right_words() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    for (name, password) in [("zoe", "wrong"), ("zoe", ""), ("nobody", "secret")] {
        let account = json!({ "name": name, "password": password });
        let refused = api.post("/api/sessions", None, account).await.expect(401);
        assert_eq!(refused.problem(), "wrong-password");
        assert_eq!(refused.header("www-authenticate"), "Bearer");
    }
    let id: Id = zoe.id.parse().unwrap();
    let (_, secret) = zoe.token.split_once('.').unwrap();
    let foreign = Id::MAX.to_code();
    let tokens = [
        String::new(),
        "x".into(),
        format!("{}.", id.to_code()),
        format!("{}.{}", id.to_code(), "A".repeat(43)),
        format!("{foreign}.{secret}"),
        format!("{}.{secret}", Id::new(0).unwrap().to_code()),
    ];
    for token in tokens {
        let stranger = User { token: token.clone(), ..zoe.clone() };
        let refused = api.get("/api/feed", Some(&stranger)).await.expect(401);
        assert_eq!(refused.problem(), "not-logged-in", "{token}");
        // Where logging in is up to the client, a token that does not hold is refused all the same.
        api.get("/api/photos/1", Some(&stranger)).await.expect(401);
    }
}

#[tokio::test]
async fn secrets_are_kept_as_hashes() {
    const KEPT: Statement = Statement::new(
        "SELECT u::text || s::text FROM {shard}.users u JOIN {shard}.sessions s ON s.user_id = u.id",
    );

    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let kept = api.cluster.shard_for_key("zoe").query_one(&KEPT, &[]).await.unwrap();
    let kept: String = kept.get(0);
    assert!(kept.contains("$argon2id$"), "{kept}");
    assert!(!kept.contains("elephants"), "{kept}");
    assert!(!kept.contains(zoe.token.split_once('.').unwrap().1), "{kept}");
}
