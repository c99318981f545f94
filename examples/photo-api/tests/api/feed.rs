//! Following, and the feed.

use futures_util::future::join_all;
use howdah::Statement;
use serde_json::{Value, json};

use crate::client::{Api, User, id};

fn captions(photos: &[Value]) -> Vec<&str> {
    photos.iter().map(|photo| photo["caption"].as_str().unwrap()).collect()
}

async fn follow(api: &Api, user: &User, name: &str) {
    api.put(&format!("/api/users/{name}/follow"), user).await.expect(204);
}

#[tokio::test]
async fn a_feed_is_everything_followed_in_the_order_of_time() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    assert_eq!(api.all("/api/feed", Some(&zoe), 5).await, [json!(null); 0]);
    let mut followed = Vec::new();
    for name in ["ada", "ben", "cleo", "dora", "emil"] {
        followed.push(api.user(name).await);
        follow(&api, &zoe, name).await;
    }
    let stranger = api.user("finn").await;
    let mut posted = Vec::new();
    for (number, user) in followed.iter().cycle().take(12).enumerate() {
        let caption = number.to_string();
        api.upload(user, &caption).await;
        posted.insert(0, caption);
    }
    api.upload(&stranger, "not followed").await;

    for limit in [1, 5, 100] {
        let feed = api.all("/api/feed", Some(&zoe), limit).await;
        assert_eq!(captions(&feed), posted, "by {limit}");
        assert!(feed.is_sorted_by(|newer, older| id(newer) > id(older)));
    }
    let own = api.all("/api/users/ada/photos", None, 2).await;
    assert_eq!(captions(&own), ["10", "5", "0"]);
}

#[tokio::test]
async fn what_is_posted_meanwhile_does_not_shift_the_pages() {
    let api = Api::start().await;
    let (zoe, ada) = (api.user("zoe").await, api.user("ada").await);
    follow(&api, &zoe, "ada").await;
    for caption in ["0", "1", "2", "3"] {
        api.upload(&ada, caption).await;
    }
    let first = api.get("/api/feed?limit=2", Some(&zoe)).await.expect(200).json();
    api.upload(&ada, "4").await;
    let next = first["next"].as_str().unwrap();
    let path = format!("/api/feed?limit=2&before={next}");
    let second = api.get(&path, Some(&zoe)).await.expect(200).json();
    assert_eq!(captions(first["items"].as_array().unwrap()), ["3", "2"]);
    assert_eq!(captions(second["items"].as_array().unwrap()), ["1", "0"]);
    assert_eq!(second["next"], json!(null));
}

#[tokio::test]
async fn a_feed_says_what_its_viewer_likes() {
    let api = Api::start().await;
    let (zoe, ada) = (api.user("zoe").await, api.user("ada").await);
    follow(&api, &zoe, "ada").await;
    follow(&api, &ada, "zoe").await;
    let photo = id(&api.upload(&ada, "").await);
    api.upload(&ada, "").await;
    api.put(&format!("/api/photos/{photo}/like"), &zoe).await.expect(204);
    let liked = |photos: &[Value]| {
        photos.iter().map(|p| (p["likes"].clone(), p["liked"].clone())).collect::<Vec<_>>()
    };
    let of_zoe = [(json!(0), json!(false)), (json!(1), json!(true))];
    let of_others = [(json!(0), json!(false)), (json!(1), json!(false))];
    assert_eq!(liked(&api.all("/api/feed", Some(&zoe), 20).await), of_zoe);
    assert_eq!(liked(&api.all("/api/users/ada/photos", Some(&zoe), 20).await), of_zoe);
    assert_eq!(liked(&api.all("/api/users/ada/photos", None, 20).await), of_others);
}

#[tokio::test]
async fn following_counts_once_and_can_be_undone() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let mut fans = vec![zoe.clone()];
    api.user("ada").await;
    for name in ["ben", "cleo", "dora"] {
        fans.push(api.user(name).await);
    }
    for fan in fans.iter().chain(&fans) {
        follow(&api, fan, "ada").await;
    }
    let counts = async |name: &str| {
        let user = api.get(&format!("/api/users/{name}"), None).await.expect(200).json();
        (user["followers"].clone(), user["following"].clone())
    };
    assert_eq!(counts("ada").await, (json!(4), json!(0)));
    assert_eq!(counts("zoe").await, (json!(0), json!(1)));
    for _ in 0..2 {
        api.delete("/api/users/ada/follow", &zoe).await.expect(204);
    }
    assert_eq!(counts("ada").await, (json!(3), json!(0)));
    assert_eq!(counts("zoe").await, (json!(0), json!(0)));

    api.put("/api/users/zoe/follow", &zoe).await.expect(400);
    api.put("/api/users/nobody/follow", &zoe).await.expect(404);
    api.delete("/api/users/nobody/follow", &zoe).await.expect(404);
}

#[tokio::test]
async fn both_halves_of_following_are_there_or_none() {
    const HALVES: Statement = Statement::new(
        "SELECT (SELECT count(*) FROM {shard}.follows) - (SELECT count(*) FROM {shard}.followers),
                (SELECT count(*) FROM {shard}.follows)",
    );

    let api = Api::start().await;
    let names = ["ada", "ben", "cleo", "dora", "emil", "finn"];
    let mut users = Vec::new();
    for name in names {
        users.push(api.user(name).await);
    }
    let halves = async || {
        let found = api.cluster.scatter(&HALVES).all(&[]).rows().await.unwrap();
        let sum = |column| found.rows.iter().map(|(_, row)| row.get::<_, i64>(column)).sum::<i64>();
        (sum(0), sum(1))
    };
    for user in &users {
        for name in names.iter().filter(|name| **name != user.name) {
            follow(&api, user, name).await;
        }
    }
    assert_eq!(halves().await, (0, 30));
    for user in &users[1..] {
        api.delete("/api/users/ada/follow", user).await.expect(204);
    }
    assert_eq!(halves().await, (0, 25));
}

#[tokio::test]
async fn following_and_unfollowing_at_once_is_refused_to_nobody() {
    let api = Api::start().await;
    let (zoe, _ada) = (api.user("zoe").await, api.user("ada").await);
    let path = "/api/users/ada/follow";
    for _ in 0..10 {
        let follows = (0..4).map(|_| api.put(path, &zoe));
        let unfollows = (0..4).map(|_| api.delete(path, &zoe));
        let all = tokio::join!(join_all(follows), join_all(unfollows));
        for reply in all.0.into_iter().chain(all.1) {
            reply.expect(204);
        }
    }
    api.delete(path, &zoe).await.expect(204);
    assert_eq!(api.get("/api/users/zoe", None).await.json()["following"], 0);
    assert_eq!(api.get("/api/users/ada", None).await.json()["followers"], 0);
}
