//! Files and the photos that name them: whatever is cut off, in the end there is no file without a photo.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::{Either, select};
use howdah::testing::until;
use howdah::{Id, Statement};
use photo_api::sweep;
use serde_json::Value;

use crate::client::{Api, id};

const NOTED: Statement = Statement::new("SELECT file FROM {shard}.discarded_files ORDER BY file");

/// The files that any shard has noted.
async fn noted(api: &Api) -> Vec<String> {
    let rows = api.cluster.scatter(&NOTED).all(&[]).rows().await.unwrap().rows;
    rows.iter().map(|(_, row)| row.get("file")).collect()
}

/// Where a photo's picture lies, and its name.
fn original(api: &Api, photo: &Value) -> (PathBuf, String) {
    let name = photo["url"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned();
    (api.media.path().join(&name[..2]).join(&name), name)
}

#[tokio::test]
async fn what_the_store_does_not_remove_is_swept() {
    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let photo = api.upload(&zoe, "").await;
    assert_eq!(noted(&api).await, [""; 0]);
    let (path, name) = original(&api, &photo);
    // No store removes a folder that has something in it.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("in the way"), "").unwrap();

    api.delete(&format!("/api/photos/{}", id(&photo)), &zoe).await.expect(204);
    assert_eq!(noted(&api).await, [name.as_str()]);
    assert_eq!((sweep(&api.state).await, noted(&api).await), (0, vec![name]));

    std::fs::remove_dir_all(&path).unwrap();
    std::fs::write(&path, "a picture").unwrap();
    assert_eq!((sweep(&api.state).await, noted(&api).await), (1, vec![]));
    assert_eq!(api.files(), [""; 0]);
}

#[tokio::test]
async fn a_deletion_goes_on_when_nobody_waits_for_it() {
    const HOLD: Statement = Statement::new("SELECT FROM {shard}.photos WHERE id = $1 FOR UPDATE");

    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    let photo: Id = id(&api.upload(&zoe, "").await);
    let path = format!("/api/photos/{photo}");
    let holder = api.cluster.shard_of_id(photo).unwrap().begin().await.unwrap();
    holder.tx().query_one(&HOLD, &[&photo]).await.unwrap();

    let deletion = Box::pin(api.delete(&path, &zoe));
    let moment = Box::pin(tokio::time::sleep(Duration::from_millis(500)));
    match select(deletion, moment).await {
        Either::Left((reply, _)) => panic!("it did not wait: {reply:?}"),
        // As when the connection is lost.
        Either::Right((_, deletion)) => drop(deletion),
    }
    api.get(&path, None).await.expect(200);
    holder.rollback().await.unwrap();
    until("the files are gone", async || {
        let left = (api.files(), noted(&api).await);
        (left.0.is_empty() && left.1.is_empty(), left)
    })
    .await;
    api.get(&path, None).await.expect(404);
}

#[tokio::test]
async fn an_upload_that_was_cut_off_leaves_nothing_for_long() {
    const STORED: Statement = Statement::new(
        "INSERT INTO {shard}.discarded_files (file, due) VALUES ($1, now() + $2 * interval '1 minute')",
    );

    let api = Api::start().await;
    let zoe = api.user("zoe").await;
    api.upload(&zoe, "").await;
    let shard = api.cluster.shard_for_key("zoe");
    let (old, new) = (format!("{}.jpg", "0".repeat(32)), format!("{}.jpg", "f".repeat(32)));
    for (name, minutes) in [(&old, -1.0), (&new, 1.0)] {
        shard.execute(&STORED, &[name, &minutes]).await.unwrap();
        let folder = api.media.path().join(&name[..2]);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), "a picture").unwrap();
    }

    assert_eq!(sweep(&api.state).await, 1);
    assert_eq!(noted(&api).await, [new.as_str()], "one is still being uploaded");
    let files = api.files();
    assert!(files.len() == 4 && files.contains(&new) && !files.contains(&old), "{files:?}");
}
