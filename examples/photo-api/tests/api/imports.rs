//! A folder of pictures becomes people and their photos, once.

use std::path::Path;

use photo_api::import::{self, Options, Report};
use serde_json::json;

use crate::client::{Api, id, picture};

/// A picture like no other of the same test.
fn numbered(number: u8) -> Vec<u8> {
    // What follows the end is no part of the picture, and makes the file another one.
    [picture(), vec![number]].concat()
}

fn roll() -> tempfile::TempDir {
    let roll = tempfile::tempdir().unwrap();
    let put = |name: &str, content: Vec<u8>| {
        let path = roll.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    put("ann/first-light.jpg", numbered(1));
    put("ann/2024/july/IMG_0002.JPG", numbered(2));
    put("Ben B/lake.jpg", numbered(3));
    put("Ben B/broken.jpg", picture()[..200].to_vec());
    put("Ben B/notes.txt", b"not a picture".to_vec());
    put("Ben B/.hidden.jpg", b"nobody's".to_vec());
    roll
}

async fn import(api: &Api, roll: &Path) -> Report {
    let password = Some("elephants never forget".to_owned());
    let options = Options { password, ..Options::default() };
    import::folder(&api.state, roll, &options).await.unwrap()
}

#[tokio::test]
async fn a_camera_roll_comes_in_once() {
    let api = Api::start().await;
    let roll = roll();
    let report = import(&api, roll.path()).await;
    assert_eq!((report.added, report.known, report.failed.len()), (3, 0, 0), "{report:?}");
    let mut names: Vec<_> = report.refused.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["Ben B/broken.jpg", "Ben B/notes.txt"]);
    assert_eq!(api.files().len(), 9);

    let report = import(&api, roll.path()).await;
    assert_eq!((report.added, report.known, report.refused.len()), (0, 3, 2), "{report:?}");

    let photos = api.all("/api/users/ann/photos", None, 10).await;
    let mut captions: Vec<_> = photos.iter().map(|photo| photo["caption"].clone()).collect();
    captions.sort_by_key(ToString::to_string);
    assert_eq!(captions, [json!(""), json!("first light")]);

    let ann = api.log_in("ann").await.expect(201).into();
    let feed = api.all("/api/feed", Some(&ann), 10).await;
    assert_eq!(feed.len(), 1);
    assert_eq!(feed[0]["user"]["name"], "ben_b");

    // What was deleted stays so, and what is new comes in.
    api.delete(&format!("/api/photos/{}", id(&photos[0])), &ann).await.expect(204);
    std::fs::write(roll.path().join("ann/new.jpg"), numbered(9)).unwrap();
    let report = import(&api, roll.path()).await;
    assert_eq!((report.added, report.known), (1, 3), "{report:?}");
    assert_eq!(api.all("/api/users/ann/photos", None, 10).await.len(), 2);
}

#[tokio::test]
async fn pictures_without_a_folder_of_their_own_belong_to_the_roll() {
    let api = Api::start().await;
    let parent = tempfile::tempdir().unwrap();
    let roll = parent.path().join("Holiday Roll");
    std::fs::create_dir(&roll).unwrap();
    std::fs::write(roll.join("beach.jpg"), picture()).unwrap();
    let report = import(&api, &roll).await;
    assert_eq!((report.added, report.refused.len()), (1, 0), "{report:?}");
    assert_eq!(api.all("/api/users/holiday_roll/photos", None, 10).await.len(), 1);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let api = Api::start().await;
    let missing = Path::new("/nonexistent/roll");
    let error = import::folder(&api.state, missing, &Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/roll"), "{error}");
}
