//! Servers go and come while people post and like: every request succeeds, and every picture and like is there.

use std::cell::Cell;

use howdah::testing::TestCluster;
use howdah::{InstanceName, Instances, Mover, NewInstance, Rebalance, RebalanceBy};
use serde_json::{Value, json};

use crate::client::{Api, User};

#[tokio::test]
async fn nobody_notices_that_a_server_is_emptied_and_comes_back() {
    let api = Api::on(TestCluster::builder().instances(3).shards(3)).await;
    let (author, fan) = (api.user_on("pg2").await, api.user_on("pg1").await);
    api.put(&format!("/api/users/{}/follow", author.name), &fan).await.expect(204);
    let ended = Cell::new(false);
    let people = async {
        let mut photos = Vec::new();
        while !ended.get() {
            photos.push(a_photo_and_what_becomes_of_it(&api, &author, &fan).await);
            across_shards(&api, &author, &fan, photos.len()).await;
        }
        photos
    };
    let (photos, ()) = tokio::join!(people, async {
        empty_and_bring_back(&api).await;
        ended.set(true);
    });
    for path in &photos {
        let photo = api.get(path, Some(&fan)).await.expect(200).json();
        let known = ["likes", "liked", "comments"].map(|key| photo[key].clone());
        assert_eq!(known, [json!(1), json!(true), json!(1)], "{photo}");
        api.get(photo["url"].as_str().unwrap(), None).await.expect(200);
    }
    let feed = api.all("/api/feed", Some(&fan), 50).await;
    assert_eq!(feed.len(), photos.len());
}

/// Every request here panics on any other answer. The address of the photo that stays.
async fn a_photo_and_what_becomes_of_it(api: &Api, author: &User, fan: &User) -> String {
    let path = |photo: &Value| format!("/api/photos/{}", photo["id"].as_str().unwrap());
    let photo = path(&api.upload(author, "it stays").await);
    api.put(&format!("{photo}/like"), fan).await.expect(204);
    api.post(&format!("{photo}/comments"), Some(fan), json!({ "text": "seen" })).await.expect(201);
    let another = path(&api.upload(author, "it does not").await);
    api.put(&format!("{another}/like"), fan).await.expect(204);
    api.delete(&another, author).await.expect(204);
    api.get(&another, Some(fan)).await.expect(404);
    photo
}

/// What asks or changes more shards than one.
async fn across_shards(api: &Api, author: &User, fan: &User, photos: usize) {
    let feed = api.get("/api/feed?limit=1", Some(fan)).await.expect(200).json();
    assert_eq!((feed["items"].as_array().unwrap().len(), feed.get("incomplete")), (1, None));
    let profile = format!("/api/users/{}", author.name);
    let seen = api.get(&profile, Some(fan)).await.expect(200).json();
    assert_eq!((&seen["photos"], &seen["followers"]), (&json!(photos), &json!(1)), "{seen}");
    let back = format!("/api/users/{}/follow", fan.name);
    api.put(&back, author).await.expect(204);
    api.delete(&back, author).await.expect(204);
    api.get("/readyz", None).await.expect(200);
}

/// `instance drain pg2`, `instance remove pg2`, `instance add pg2` and `rebalance apply`.
async fn empty_and_bring_back(api: &Api) {
    let config = api.test.config();
    let pg2 = InstanceName::new("pg2").unwrap();
    let mover = Mover::new(&config).unwrap().reverse(false);
    let carry_out = async |rebalance: Rebalance| {
        let plan = rebalance.plan(&api.cluster).await.unwrap();
        assert_eq!(plan.moves.len(), 1, "{plan:?}");
        for (_, moved) in mover.carry_out(&plan, 1).await {
            moved.unwrap();
        }
    };
    // One run of changes after the other: who asks anew may come before the server has noticed that the last one has ended.
    let mut instances = Instances::open(&config).await.unwrap();
    instances.drain(&pg2).await.unwrap();
    carry_out(Rebalance::new().away_from(pg2.clone())).await;
    instances.remove(&pg2).await.unwrap();

    let dsn = api.test.servers().dsn("pg2", "howdah_app").unwrap().parse().unwrap();
    instances.add(&NewInstance::new(pg2, dsn)).await.unwrap();
    carry_out(Rebalance::new().by(RebalanceBy::Shards).tolerance(0.0)).await;
}
