//! What is malformed is refused in so many words, never with 5xx, and leaves nothing behind.

use axum::body::Body;
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use howdah::{Id, IdParts, Layout, ShardId};
use serde_json::json;

use crate::client::{Api, Form, id, picture, request};

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let comments = format!("/api/photos/{}/comments", id(&api.upload(&zoe, "").await));
    let json = Some("application/json");
    let too_long = format!(r#"{{"name":"a","password":"{}"}}"#, "x".repeat(1025));
    let huge = format!(r#"{{"name":"a","password":"{}"}}"#, "x".repeat(70_000));
    let long_comment = json!({ "text": "x".repeat(2001) }).to_string();
    for (path, content_type, body, status) in [
        ("/api/users", json, "", 400),
        ("/api/users", json, "{", 400),
        ("/api/users", json, "[]", 400),
        ("/api/users", json, "\u{fffd}", 400),
        ("/api/users", json, r#"{"name":"a"}"#, 400),
        ("/api/users", json, r#"{"name":"A","password":"x"}"#, 400),
        ("/api/users", json, r#"{"name":"","password":"x"}"#, 400),
        ("/api/users", json, r#"{"name":"..","password":"x"}"#, 400),
        ("/api/users", json, r#"{"name":"a b","password":"x"}"#, 400),
        ("/api/users", json, r#"{"name":1,"password":"x"}"#, 400),
        ("/api/users", json, r#"{"name":"a","password":""}"#, 400),
        ("/api/users", json, r#"{"name":"a","password":"x","email":"nowhere"}"#, 400),
        ("/api/users", json, r#"{"name":"a","password":"x","email":"a\u0000@b"}"#, 400),
        ("/api/users", json, &too_long, 400),
        ("/api/users", json, &huge, 413),
        ("/api/users", None, r#"{"name":"a","password":"x"}"#, 415),
        ("/api/users", Some("text/plain"), r#"{"name":"a","password":"x"}"#, 415),
        ("/api/sessions", json, r#"{"name":"zoe"}"#, 400),
        ("/api/sessions", Some("application/x-www-form-urlencoded"), "name=zoe", 415),
        (&comments, json, r#"{"text":""}"#, 400),
        (&comments, json, r#"{"text":" \n "}"#, 400),
        (&comments, json, r#"{"text":"a\u0000b"}"#, 400),
        (&comments, json, r#"{"text":null}"#, 400),
        (&comments, json, &long_comment, 400),
        ("/api/photos", None, "", 415),
        ("/api/photos", json, "{}", 415),
        ("/api/photos", Some("multipart/form-data"), "", 400),
        ("/api/photos", Some("multipart/form-data; boundary=x"), "", 400),
        ("/api/photos", Some("multipart/form-data; boundary=x"), "--x\r\nhello", 400),
        ("/api/photos", Some("multipart/form-data; boundary=x"), "--x--\r\n", 400),
    ] {
        let mut request = request(Method::POST, path, Some(&zoe));
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let reply = api.send(request.body(body.to_owned().into()).unwrap()).await;
        let shown: String = body.chars().take(60).collect();
        assert_eq!(reply.status, status, "{path} {shown}: {}", reply.text());
        reply.problem();
    }
    let invalid_utf8 =
        request(Method::POST, "/api/users", None).header(CONTENT_TYPE, "application/json");
    api.send(invalid_utf8.body(Body::from(b"{\"name\":\"\xff\"}".to_vec())).unwrap())
        .await
        .expect(400);
    assert_eq!(api.get("/api/users/a", None).await.status, 404);
    assert_eq!(api.all(&comments, None, 20).await.len(), 0);
}

#[tokio::test]
async fn ids_names_and_keys_that_lead_nowhere() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let layout = Layout::default();
    let on = |shard| {
        let shard = ShardId::new(shard).unwrap();
        layout.encode(IdParts { shard, sequence: 0, unix_ms: 1_700_000_000_000 }).unwrap()
    };
    let (here, no_shard) = (on(0).to_string(), on(4097).to_string());
    for (photo, status) in [
        ("0", 404),
        ("1", 404),
        (&here, 404),
        (&no_shard, 404),
        ("9223372036854775807", 404),
        ("9223372036854775808", 400),
        ("99999999999999999999999999", 400),
        ("-1", 400),
        ("+1", 400),
        ("1.5", 400),
        ("%20", 400),
        ("%00", 400),
        ("%ff", 400),
        ("abc", 400),
        ("NaN", 400),
    ] {
        let path = format!("/api/photos/{photo}");
        let like = format!("{path}/like");
        let comments = format!("{path}/comments");
        let said = json!({ "text": "hm" });
        for reply in [
            api.get(&path, None).await,
            api.delete(&path, &zoe).await,
            api.put(&like, &zoe).await,
            api.delete(&like, &zoe).await,
            api.get(&comments, None).await,
            api.post(&comments, Some(&zoe), said).await,
        ] {
            assert_eq!(reply.status, status, "{photo}: {reply:?}");
            reply.problem();
        }
    }
    for name in ["nobody", "Zoe", "zo%C3%AB", "a%00", "%ff", "..%2f..", &"x".repeat(31)] {
        let status = if name == "%ff" { 400 } else { 404 };
        for path in [format!("/api/users/{name}"), format!("/api/users/{name}/photos")] {
            let reply = api.send_unchecked(get(&path)).await;
            assert_eq!(reply.status, status, "{path}: {reply:?}");
            reply.problem();
        }
    }
    for code in ["-", "AA", "A", "CWvs5T8A1Mi", "___________", "x%00", "%ff", &"B".repeat(12)] {
        api.get(&format!("/p/{code}"), None).await.expect(404);
    }
    let foreign = Id::MAX.to_code();
    api.get(&format!("/p/{foreign}"), None).await.expect(404);
    for key in ["x", "..%2f..%2fetc%2fpasswd", &format!("{}.jpg", "0".repeat(32)), "%ff"] {
        let reply = api.send_unchecked(get(&format!("/media/{key}"))).await;
        assert!(reply.status.is_client_error(), "{key}: {reply:?}");
        reply.problem();
    }
}

fn get(path: &str) -> axum::http::Request<Body> {
    request(Method::GET, path, None).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn pages_that_cannot_be() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let lists = ["/api/feed".into(), "/api/users/zoe/photos".into(), {
        let photo = api.upload(&zoe, "").await;
        format!("/api/photos/{}/comments", id(&photo))
    }];
    for list in lists {
        for query in [
            "limit=0",
            "limit=101",
            "limit=-1",
            "limit=",
            "limit=many",
            "limit=99999999999999999999",
            "before=",
            "before=1",
            "before=%00",
            "before=%ff",
            "limit=1&limit=2",
        ] {
            let reply = api.get(&format!("{list}?{query}"), Some(&zoe)).await;
            assert_eq!(reply.status, 400, "{list}?{query}: {reply:?}");
            assert_eq!(reply.problem(), "invalid-request");
        }
        for query in ["", "limit=1", "limit=100", "unknown=1"] {
            api.get(&format!("{list}?{query}"), Some(&zoe)).await.expect(200);
        }
    }
}

#[tokio::test]
async fn pictures_that_are_none() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let good = picture();
    let cut = &good[..good.len() / 2];
    let huge = vec![0xff; (25 << 20) + 1];
    let enormous = vec![0xff; 26 << 20];
    for (image, status, kind) in [
        (&b""[..], 400, "invalid-request"),
        (b"this is no picture", 422, "unusable-picture"),
        (b"GIF89a\x01\x00\x01\x00", 422, "unusable-picture"),
        (cut, 422, "unusable-picture"),
        (&good[..20], 422, "unusable-picture"),
        (&huge, 413, "too-large"),
        (&enormous, 413, "too-large"),
    ] {
        let reply =
            api.send(Form::new().file("image", image).post("/api/photos", Some(&zoe))).await;
        assert_eq!(reply.status, status, "{} bytes: {}", image.len(), reply.text());
        assert_eq!(reply.problem(), kind);
    }
    let long = "x".repeat(2201);
    for (field, value) in
        [("caption", long.as_str()), ("caption", "a\0b"), ("lat", "1"), ("lon", "1")]
    {
        let form = Form::new().file("image", &good).text(field, value);
        let reply = api.send(form.post("/api/photos", Some(&zoe))).await.expect(400);
        assert!(reply.json()["detail"].as_str().unwrap().contains(field), "{}", reply.text());
    }
    for (lat, lon) in [("91", "0"), ("0", "181"), ("NaN", "0"), ("north", "0")] {
        let form = Form::new().file("image", &good).text("lat", lat).text("lon", lon);
        api.send(form.post("/api/photos", Some(&zoe))).await.expect(400);
    }
    let nobody = Form::new().file("image", &good).post("/api/photos", None);
    api.send(nobody).await.expect(401);

    assert_eq!(api.files(), [""; 0]);
    assert_eq!(api.get("/api/users/zoe", None).await.json()["photos"], 0);
}
