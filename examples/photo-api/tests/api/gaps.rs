//! A server is lost: whoever does not need it is served, the others are told at once, and nothing is skipped
//! once it is back.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Method;
use axum::http::header::COOKIE;
use howdah::testing::{TestCluster, until};
use serde_json::{Value, json};

use crate::client::{Api, Form, Reply, User, id, picture, request};

/// Nobody waits longer than this for a server that is away: not even the time that a connection may take.
const AT_ONCE: Duration = Duration::from_secs(4);

struct Town {
    api: Api,
    here: User,
    there: User,
    /// Of both, newest first, as `here` sees them.
    photos: Vec<Value>,
}

/// Somebody on each of two servers, who follow each other and a third, and have posted in turns.
async fn town() -> Town {
    let api = Api::on(TestCluster::builder().own_servers().shards(4)).await;
    let (here, there) = (api.user_on("pg1").await, api.user_on("pg2").await);
    let neighbour = api.user_on("pg1").await;
    for name in [&there.name, &neighbour.name] {
        api.put(&format!("/api/users/{name}/follow"), &here).await.expect(204);
    }
    let mut photos = Vec::new();
    for number in 0..6 {
        let author = if number % 2 == 0 { &there } else { &neighbour };
        photos.insert(0, api.upload(author, &number.to_string()).await);
    }
    Town { api, here, there, photos }
}

#[track_caller]
fn is_away(reply: &Reply, since: Instant) {
    assert!(since.elapsed() < AT_ONCE, "after {:?}", since.elapsed());
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.header("retry-after"), "1");
}

#[tokio::test]
async fn people_on_the_other_server_do_not_notice() {
    let Town { mut api, here, there, .. } = town().await;
    api.test.kill("pg2").await.unwrap();

    let again: User = api.log_in(&here.name).await.expect(201).into();
    let posted = api.upload(&again, "still here").await;
    api.get(&format!("/api/photos/{}", id(&posted)), Some(&again)).await.expect(200);
    let seen = api.get(&format!("/api/users/{}", here.name), None).await.expect(200).json();
    assert_eq!((&seen["followers"], &seen["photos"]), (&json!(null), &json!(1)));
    assert_eq!(seen["incomplete"], json!([1, 3]));
    // Following is on both users' shards, so it waits until both are there: nothing of it is done by halves.
    let asked = Instant::now();
    is_away(&api.delete(&format!("/api/users/{}/follow", there.name), &again).await, asked);
    let seen = api.get(&format!("/api/users/{}", here.name), None).await.expect(200).json();
    assert_eq!(seen["following"], json!(2));
}

#[tokio::test]
async fn people_on_the_lost_server_are_told_at_once() {
    let Town { mut api, here, there, photos } = town().await;
    let away = photos.iter().find(|photo| photo["user"]["id"] == there.id).unwrap();
    let path = format!("/api/photos/{}", id(away));
    api.test.kill("pg2").await.unwrap();

    for _ in 0..2 {
        let asked = Instant::now();
        is_away(&api.log_in(&there.name).await, asked);
        let asked = Instant::now();
        is_away(&api.get("/api/feed", Some(&there)).await, asked);
        let asked = Instant::now();
        is_away(&api.get(&path, Some(&here)).await, asked);
        let asked = Instant::now();
        is_away(&api.put(&format!("{path}/like"), &here).await, asked);
        let form = Form::new().file("image", &picture());
        let asked = Instant::now();
        is_away(&api.send(form.post("/api/photos", Some(&there))).await, asked);
        let asked = Instant::now();
        is_away(&api.get(&format!("/api/users/{}", there.name), None).await, asked);
    }
    assert_eq!(api.files().len(), photos.len() * 3, "nothing half-written");

    // Pages for people: the front page is there for everybody, the others say what is wrong.
    let asked = Instant::now();
    is_away(&api.get(&format!("/u/{}", there.name), None).await, asked);
    let cookie = format!("session={}", there.token);
    let home = request(Method::GET, "/", None).header(COOKIE, cookie);
    let home = api.send(home.body(Body::empty()).unwrap()).await.expect(200);
    assert!(home.text().contains("reached"), "{}", home.text());
}

#[tokio::test]
async fn a_feed_names_its_gap_and_skips_nothing() {
    let Town { mut api, here, there, photos } = town().await;
    let ids = |photos: &[Value]| photos.iter().map(id).collect::<Vec<_>>();
    let first = api.get("/api/feed?limit=2", Some(&here)).await.expect(200).json();
    let mut seen = first["items"].as_array().unwrap().clone();
    assert_eq!(ids(&seen), ids(&photos[..2]));
    assert_eq!(first.get("incomplete"), None);

    api.test.kill("pg2").await.unwrap();
    let asked = Instant::now();
    let next = first["next"].as_str().unwrap();
    let gap = api.get(&format!("/api/feed?limit=2&before={next}"), Some(&here)).await;
    assert!(asked.elapsed() < AT_ONCE, "after {:?}", asked.elapsed());
    let gap = gap.expect(200).json();
    let home = api.cluster.shard_for_key(&there.name).id();
    assert_eq!(gap["incomplete"], json!([home.get()]));
    let reached = gap["items"].as_array().unwrap();
    assert!(reached.iter().all(|photo| photo["user"]["id"] != there.id));
    assert!(!reached.is_empty());
    seen.extend(reached.iter().cloned());

    api.test.start_server("pg2").await.unwrap();
    // Without a restart of the application.
    until("nothing is missing any more", async || {
        let feed = api.get("/api/feed", Some(&here)).await.expect(200).json();
        (feed.get("incomplete").is_none(), feed)
    })
    .await;
    let mut next = gap["next"].as_str().map(str::to_owned);
    while let Some(before) = next {
        let page = api.get(&format!("/api/feed?limit=2&before={before}"), Some(&here)).await;
        let page = page.expect(200).json();
        assert_eq!(page.get("incomplete"), None);
        seen.extend(page["items"].as_array().unwrap().iter().cloned());
        next = page["next"].as_str().map(str::to_owned);
    }
    let mut seen = ids(&seen);
    seen.sort_by(|one, other| other.cmp(one));
    assert_eq!(seen, ids(&photos), "each once, none skipped");
    api.log_in(&there.name).await.expect(201);
}

#[tokio::test]
async fn a_server_that_says_nothing_holds_nobody_up() {
    let Town { mut api, here, there, .. } = town().await;
    // It takes connections and requests, and answers none of them.
    api.test.suspend("pg2").await.unwrap();

    let profile = format!("/api/users/{}", here.name);
    for (path, user) in
        [("/", None), (profile.as_str(), None), ("/api/feed", Some(&here)), ("/", Some(&there))]
    {
        let asked = Instant::now();
        let reply = api.get(path, user).await.expect(200);
        assert!(asked.elapsed() < AT_ONCE, "{path} after {:?}", asked.elapsed());
        if path.starts_with("/api/") {
            assert!(reply.json()["incomplete"].is_array(), "{path}: {}", reply.text());
        }
    }
    api.test.resume("pg2").await.unwrap();
}

#[tokio::test]
async fn a_server_that_lets_nobody_in_counts_as_away() {
    const SHUT: &str = "ALTER ROLE howdah_app NOLOGIN";
    const OUT: &str =
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'howdah_app'";

    let Town { api, there, .. } = town().await;
    let admin = api.test.admin("pg2").await.unwrap();
    admin.batch_execute(SHUT).await.unwrap();
    admin.batch_execute(OUT).await.unwrap();
    // The first may find a connection that is about to be noticed as lost.
    for _ in 0..3 {
        let asked = Instant::now();
        is_away(&api.log_in(&there.name).await, asked);
    }
}
