//! `/api/feed`: the photos of everybody whom the viewer follows, newest first.
//!
//! Whom they follow is one read on the viewer's shard. Each shard on which somebody followed lives is then asked
//! once, for its part of the page, and the parts are merged as they come. A shard that is away leaves a gap that
//! the page names; `next` keeps its place, so that its photos come once it is back.

use std::collections::BTreeMap;

use axum::extract::State;
use howdah::{Id, ShardId, Statement};

use crate::App;
use crate::input::Json;
use crate::list::{List, Range, SILENCE};
use crate::photos::Photo;
use crate::problem::Problem;
use crate::sessions::Viewer;
use crate::users::Person;

/// `GET /api/feed`
pub(crate) async fn show(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    range: Range,
) -> Result<Json<List<Photo>>, Problem> {
    Ok(Json(list(&app, &viewer, range).await?))
}

pub(crate) async fn list(app: &App, viewer: &Person, range: Range) -> Result<List<Photo>, Problem> {
    const FOLLOWED: Statement =
        Statement::new("SELECT followee_id FROM {shard}.follows WHERE follower_id = $1");
    // A look at the head of each user's photos costs the same however many they have posted; a plain
    // `user_id = ANY ($1)` would read and sort them all.
    const PHOTOS: Statement = Statement::new(
        "SELECT p.id, p.user_id, p.user_name, p.caption, p.taken_at, p.lat, p.lon, p.width, p.height,
                p.original, p.small, p.large, p.likes, p.comments,
                EXISTS (SELECT FROM {shard}.likes l WHERE l.photo_id = p.id AND l.user_id = $2) AS liked
         FROM unnest($1::bigint[]) AS followed (id)
         CROSS JOIN LATERAL (SELECT * FROM {shard}.photos
                             WHERE user_id = followed.id AND id < $3 ORDER BY id DESC LIMIT $4) p
         ORDER BY p.id DESC LIMIT $4",
    );

    let layout = app.cluster.layout();
    let followed = app.cluster.shard_of_id(viewer.id)?.query(&FOLLOWED, &[&viewer.id]).await?;
    let mut by_shard = BTreeMap::<ShardId, Vec<Id>>::new();
    for row in &followed {
        let user: Id = row.get("followee_id");
        by_shard.entry(layout.shard_of(user)).or_default().push(user);
    }
    if by_shard.is_empty() {
        return Ok(List::EMPTY);
    }

    let mut photos = app.cluster.scatter(&PHOTOS);
    for (shard, users) in &by_shard {
        photos = photos.shard(*shard, &[users, &viewer.id]);
    }
    let photos = photos.partial().timeout(SILENCE);
    let page = photos.page("id", range.before.as_ref(), range.limit).await?;
    Ok(List::new(page, |row| Photo::from_row(row, layout)))
}

/// The newest photos of all, for those who do not know anybody yet. It takes what can be reached.
pub(crate) async fn newest(app: &App, count: usize) -> Result<Vec<Photo>, Problem> {
    const NEWEST: Statement = Statement::new(
        "SELECT id, user_id, user_name, caption, taken_at, lat, lon, width, height,
                original, small, large, likes, comments, false AS liked
         FROM {shard}.photos WHERE id < $1 ORDER BY id DESC LIMIT $2",
    );

    let layout = app.cluster.layout();
    let page = app.cluster.scatter(&NEWEST).all(&[]).partial().timeout(SILENCE);
    let page = page.page("id", None, count).await?;
    Ok(page.rows.iter().map(|row| Photo::from_row(row, layout)).collect())
}

/// Names of people who posted lately, for a feed that is still empty.
pub(crate) async fn recently_posting(app: &App, viewer: &Person) -> Result<Vec<String>, Problem> {
    const NEWEST: Statement = Statement::new(
        "SELECT id, user_name FROM {shard}.photos
         WHERE user_id <> $1 AND id < $2 ORDER BY id DESC LIMIT $3",
    );
    const PHOTOS: usize = 50;
    const NAMES: usize = 8;

    let page = app.cluster.scatter(&NEWEST).all(&[&viewer.id]).partial().timeout(SILENCE);
    let page = page.page("id", None, PHOTOS).await?;
    let mut names = Vec::with_capacity(NAMES);
    for row in &page.rows {
        let name = row.get("user_name");
        if names.len() < NAMES && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}
