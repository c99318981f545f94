//! `/api/photos/{id}/comments`: comments live with their photo, whose row counts them.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use howdah::postgres::Row;
use howdah::{Error, Id, Layout, Statement};
use serde::{Deserialize, Serialize};

use crate::App;
use crate::idempotency::{Claim, Earlier};
use crate::input::{self, IdempotencyKey, Json, PhotoId};
use crate::list::{List, Range};
use crate::photos::{self, no_photo, shard_of};
use crate::problem::{Kind, Problem};
use crate::sessions::Viewer;
use crate::users::Person;

const MAX_TEXT_CHARS: usize = 2000;

/// One comment on a photo.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comment {
    /// On the photo's shard.
    pub(crate) id: Id,
    /// Who wrote it.
    pub(crate) user: Person,
    /// Never empty.
    pub(crate) text: String,
    /// When it was written.
    pub(crate) created_at: DateTime<Utc>,
}

impl Comment {
    fn from_row(row: &Row, layout: Layout) -> Self {
        let id: Id = row.get("id");
        Self {
            id,
            user: Person { id: row.get("user_id"), name: row.get("user_name") },
            text: row.get("text"),
            created_at: layout.decode(id).time(),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct NewComment {
    pub(crate) text: String,
}

/// `POST /api/photos/{id}/comments`
pub(crate) async fn create(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    PhotoId(photo): PhotoId,
    key: Option<IdempotencyKey>,
    Json(new): Json<NewComment>,
) -> Result<(StatusCode, Json<Comment>), Problem> {
    Ok((StatusCode::CREATED, Json(add(&app, &viewer, photo, new, key).await?)))
}

pub(crate) async fn add(
    app: &App,
    viewer: &Person,
    photo: Id,
    new: NewComment,
    key: Option<IdempotencyKey>,
) -> Result<Comment, Problem> {
    // Counting comes first: it finds the photo, and holds it until the comment is there.
    const ADD: Statement = Statement::new(
        "WITH photo AS (UPDATE {shard}.photos SET comments = comments + 1 WHERE id = $1 RETURNING id)
         INSERT INTO {shard}.comments (photo_id, user_id, user_name, text)
         SELECT id, $2, $3, $4 FROM photo
         RETURNING id, user_id, user_name, text",
    );
    const BY_ID: Statement =
        Statement::new("SELECT id, user_id, user_name, text FROM {shard}.comments WHERE id = $1");

    let text = input::text("text", &new.text, MAX_TEXT_CHARS)?;
    if text.is_empty() {
        return Err(Problem::invalid("text: say something"));
    }
    let claim = key.map(|key| Claim::new(viewer.id, photo, key, &[text.as_bytes()]));
    let row = shard_of(app, photo)?
        .transaction(async |tx| {
            if let Some(claim) = &claim {
                match claim.take(&tx).await? {
                    Earlier::Nothing => {}
                    Earlier::Made(id) => {
                        let made = tx.query_opt(&BY_ID, &[&id]).await?;
                        return made.ok_or_else(|| Error::abort(Problem::from(Kind::Gone)));
                    }
                    Earlier::AnotherRequest => {
                        return Err(Error::abort(Problem::from(Kind::KeyReused)));
                    }
                }
            }
            let added = tx.query_opt(&ADD, &[&photo, &viewer.id, &viewer.name, &text]).await?;
            let row = added.ok_or_else(|| Error::abort(no_photo()))?;
            if let Some(claim) = &claim {
                claim.made(&tx, row.get("id")).await?;
            }
            Ok(row)
        })
        .await?;
    Ok(Comment::from_row(&row, app.cluster.layout()))
}

/// `GET /api/photos/{id}/comments`
pub(crate) async fn of_photo(
    State(app): State<App>,
    PhotoId(photo): PhotoId,
    range: Range,
) -> Result<Json<List<Comment>>, Problem> {
    Ok(Json(list(&app, photo, range).await?))
}

pub(crate) async fn list(app: &App, photo: Id, range: Range) -> Result<List<Comment>, Problem> {
    const OF_PHOTO: Statement = Statement::new(
        "SELECT id, user_id, user_name, text FROM {shard}.comments
         WHERE photo_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
    );

    let layout = app.cluster.layout();
    let page = app
        .cluster
        .scatter(&OF_PHOTO)
        .shard(shard_of(app, photo)?.id(), &[&photo])
        .page("id", range.before.as_ref(), range.limit)
        .await?;
    if page.rows.is_empty() {
        photos::find(app, None, photo).await?;
    }
    Ok(List::new(page, |row| Comment::from_row(row, layout)))
}
