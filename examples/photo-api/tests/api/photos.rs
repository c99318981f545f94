//! Photos, what is served of them, and what people do with them.

use axum::body::Body;
use axum::http::Method;
use axum::http::header::IF_NONE_MATCH;
use howdah::Statement;
use serde_json::json;

use crate::client::{Api, Form, id, picture, request};

#[tokio::test]
async fn an_upload_becomes_a_photo_with_its_pictures() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let form = Form::new()
        .text("caption", "  first light \n")
        .file("image", &picture())
        .text("lat", "46.5")
        .text("lon", "-7.25");
    let photo = api.send(form.post("/api/photos", Some(&zoe))).await.expect(201).json();

    assert_eq!(photo["code"], id(&photo).to_code());
    assert_eq!(photo["user"], json!({ "id": zoe.id, "name": "zoe" }));
    assert_eq!(photo["caption"], "first light");
    assert_eq!((&photo["width"], &photo["height"]), (&json!(64), &json!(48)));
    assert_eq!((&photo["lat"], &photo["lon"]), (&json!(46.5), &json!(-7.25)));
    assert_eq!((&photo["likes"], &photo["liked"]), (&json!(0), &json!(false)));
    let posted = photo["created_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>();
    assert!((chrono::Utc::now() - posted.unwrap()).num_seconds().abs() < 60);

    let path = format!("/api/photos/{}", photo["id"].as_str().unwrap());
    assert_eq!(api.get(&path, None).await.expect(200).json(), photo);
    assert_eq!(api.get(&path, Some(&zoe)).await.expect(200).json(), photo);
    api.get(&format!("/p/{}", photo["code"].as_str().unwrap()), None).await.expect(200);
    assert_eq!(api.get("/api/users/zoe", None).await.json()["photos"], 1);

    for url in [&photo["url"], &photo["thumbnails"]["small"], &photo["thumbnails"]["large"]] {
        let url = url.as_str().unwrap();
        let served = api.get(url, None).await.expect(200);
        assert_eq!(served.header("content-type"), "image/jpeg");
        assert_eq!(served.header("cache-control"), "public, max-age=31536000, immutable");
        image::load_from_memory(&served.body).unwrap();

        let tag = served.header("etag");
        let again = request(Method::GET, url, None).header(IF_NONE_MATCH, tag);
        let again = api.send(again.body(Body::empty()).unwrap()).await.expect(304);
        assert_eq!(again.header("etag"), tag);
        let other = request(Method::GET, url, None).header(IF_NONE_MATCH, "\"other\"");
        api.send(other.body(Body::empty()).unwrap()).await.expect(200);
    }
}

#[tokio::test]
async fn a_photo_lives_with_its_user() {
    const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.photos WHERE id = $1");

    let api = Api::start().await;
    for name in ["ada", "ben", "cleo"] {
        let user = api.user(name).await;
        let photo = id(&api.upload(&user, "").await);
        let home = api.cluster.shard_for_key(name).id();
        let counts = api.cluster.scatter(&COUNT).all(&[&photo]).rows().await.unwrap();
        for (shard, row) in counts.rows {
            assert_eq!(row.get::<_, i64>(0), i64::from(shard == home), "{name} {shard}");
        }
    }
}

#[tokio::test]
async fn a_deleted_photo_takes_everything_with_it() {
    const LEFT: Statement = Statement::new(
        "SELECT (SELECT count(*) FROM {shard}.photos) + (SELECT count(*) FROM {shard}.likes)
              + (SELECT count(*) FROM {shard}.comments)",
    );

    let api = Api::start().await;
    let (zoe, ada) = (api.user("zoe").await, api.user("ada").await);
    let photo = api.upload(&zoe, "").await;
    let path = format!("/api/photos/{}", id(&photo));
    api.put(&format!("{path}/like"), &ada).await.expect(204);
    api.post(&format!("{path}/comments"), Some(&ada), json!({ "text": "!" })).await.expect(201);
    assert_eq!(api.files().len(), 3);

    assert_eq!(api.delete(&path, &ada).await.expect(403).problem(), "not-yours");
    api.delete(&path, &zoe).await.expect(204);
    api.delete(&path, &zoe).await.expect(404);
    api.get(&path, None).await.expect(404);
    api.get(&format!("{path}/comments"), None).await.expect(404);
    api.get(photo["url"].as_str().unwrap(), None).await.expect(404);
    api.put(&format!("{path}/like"), &ada).await.expect(404);
    assert_eq!(api.files(), [""; 0]);
    assert_eq!(api.get("/api/users/zoe", None).await.json()["photos"], 0);
    let left = api.cluster.scatter(&LEFT).all(&[]).rows().await.unwrap();
    assert_eq!(left.rows.iter().map(|(_, row)| row.get::<_, i64>(0)).sum::<i64>(), 0);
}

#[tokio::test]
async fn everybody_likes_a_photo_once() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let photo = format!("/api/photos/{}", id(&api.upload(&zoe, "").await));
    let like = format!("{photo}/like");
    let mut fans = Vec::new();
    for name in ["ada", "ben", "cleo", "dora"] {
        fans.push(api.user(name).await);
    }
    let all_twice = fans.iter().chain(&fans).map(|fan| api.put(&like, fan));
    for reply in futures_util::future::join_all(all_twice).await {
        reply.expect(204);
    }
    let seen = api.get(&photo, Some(&fans[0])).await.json();
    assert_eq!((&seen["likes"], &seen["liked"]), (&json!(4), &json!(true)));
    let seen = api.get(&photo, Some(&zoe)).await.json();
    assert_eq!((&seen["likes"], &seen["liked"]), (&json!(4), &json!(false)));

    api.delete(&like, &fans[0]).await.expect(204);
    api.delete(&like, &fans[0]).await.expect(204);
    let seen = api.get(&photo, Some(&fans[0])).await.json();
    assert_eq!((&seen["likes"], &seen["liked"]), (&json!(3), &json!(false)));
    api.delete("/api/photos/1/like", &zoe).await.expect(404);
}

#[tokio::test]
async fn comments_are_listed_newest_first() {
    let api = Api::start().await;
    let (zoe, ada) = (api.user("zoe").await, api.user("ada").await);
    let photo = format!("/api/photos/{}", id(&api.upload(&zoe, "").await));
    let comments = format!("{photo}/comments");
    assert_eq!(api.all(&comments, None, 3).await, [json!(null); 0]);
    for (number, user) in [&zoe, &ada].into_iter().cycle().take(7).enumerate() {
        let text = json!({ "text": format!(" Nr. {number}\n🐘 ") });
        let said = api.post(&comments, Some(user), text).await.expect(201).json();
        assert_eq!(said["text"], format!("Nr. {number}\n🐘"));
        assert_eq!(said["user"]["name"], user.name);
    }
    let texts: Vec<_> =
        api.all(&comments, None, 3).await.iter().map(|c| c["text"].clone()).collect();
    let wanted: Vec<_> = (0..7).rev().map(|n| json!(format!("Nr. {n}\n🐘"))).collect();
    assert_eq!(texts, wanted);
    assert_eq!(api.get(&photo, None).await.json()["comments"], 7);
}

#[tokio::test]
async fn a_large_picture_comes_whole_and_its_head_alone() {
    let api = Api::start().await;
    let key = format!("{}.jpg", "a".repeat(32));
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| n.to_le_bytes()[1]).collect();
    std::fs::create_dir(api.media.path().join("aa")).unwrap();
    std::fs::write(api.media.path().join("aa").join(&key), &bytes).unwrap();

    let url = format!("/media/{key}");
    let served = api.get(&url, None).await.expect(200);
    assert_eq!((served.header("content-length"), served.body == bytes), ("3000001", true));
    let head = request(Method::HEAD, &url, None).body(Body::empty()).unwrap();
    let head = api.send_unchecked(head).await.expect(200);
    assert_eq!((head.header("content-length"), head.body.len()), ("3000001", 0));
    assert_eq!(head.header("etag"), served.header("etag"));
    let gone = format!("/media/{}.jpg", "b".repeat(32));
    let gone = request(Method::GET, &gone, None).header(IF_NONE_MATCH, "*");
    api.send(gone.body(Body::empty()).unwrap()).await.expect(404);
}
