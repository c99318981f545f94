//! `/api/photos/{id}/like`: likes live with their photo, whose row counts them.

use axum::extract::State;
use axum::http::StatusCode;
use howdah::{Id, Statement};

use crate::App;
use crate::input::PhotoId;
use crate::photos::{no_photo, shard_of};
use crate::problem::Problem;
use crate::sessions::Viewer;
use crate::users::Person;

/// `PUT /api/photos/{id}/like`
pub(crate) async fn add(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    PhotoId(photo): PhotoId,
) -> Result<StatusCode, Problem> {
    like(&app, &viewer, photo).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn like(app: &App, viewer: &Person, photo: Id) -> Result<(), Problem> {
    // One round trip says whether there is such a photo, adds the like unless it is there, and counts it. The
    // photo is locked first, as whoever deletes it does, so that the two never wait for each other.
    const LIKE: Statement = Statement::new(
        "WITH photo AS (SELECT id FROM {shard}.photos WHERE id = $1 FOR NO KEY UPDATE),
              added AS (INSERT INTO {shard}.likes (photo_id, user_id) SELECT id, $2 FROM photo
                        ON CONFLICT DO NOTHING RETURNING photo_id),
              counted AS (UPDATE {shard}.photos p SET likes = likes + 1
                          FROM added WHERE p.id = added.photo_id)
         SELECT id FROM photo",
    );

    let found = shard_of(app, photo)?.query_opt(&LIKE, &[&photo, &viewer.id]).await?;
    found.map(drop).ok_or_else(no_photo)
}

/// `DELETE /api/photos/{id}/like`
pub(crate) async fn delete(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    PhotoId(photo): PhotoId,
) -> Result<StatusCode, Problem> {
    unlike(&app, &viewer, photo).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn unlike(app: &App, viewer: &Person, photo: Id) -> Result<(), Problem> {
    const UNLIKE: Statement = Statement::new(
        "WITH photo AS (SELECT id FROM {shard}.photos WHERE id = $1 FOR NO KEY UPDATE),
              removed AS (DELETE FROM {shard}.likes l USING photo
                          WHERE l.photo_id = photo.id AND l.user_id = $2 RETURNING l.photo_id),
              counted AS (UPDATE {shard}.photos p SET likes = likes - 1
                          FROM removed WHERE p.id = removed.photo_id)
         SELECT id FROM photo",
    );

    let found = shard_of(app, photo)?.query_opt(&UNLIKE, &[&photo, &viewer.id]).await?;
    found.map(drop).ok_or_else(no_photo)
}
