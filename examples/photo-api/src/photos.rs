//! `/api/photos`: uploading, showing and deleting photos, and the photos of one user.
//!
//! A photo lives with its user; its id leads there. The row repeats the user's name and counts its likes and
//! comments, and likes live beside it, so a PHOTO is one row of one statement, whoever looks at it.

use std::time::Duration;

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use howdah::postgres::Row;
use howdah::{Error, Id, Layout, Outcome, Shard, Statement, Tx};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;

use crate::App;
use crate::discarded;
use crate::idempotency::{Claim, Earlier};
use crate::input::{self, IdempotencyKey, Json, PhotoId, UserName, arriving};
use crate::list::{List, Range};
use crate::picture::{self, Picture, PictureError};
use crate::problem::{Kind, Problem};
use crate::sessions::Viewer;
use crate::store::{MediaKey, Store, StoreError};
use crate::users::{self, Person};

const MAX_CAPTION_CHARS: usize = 2200;

/// How long an upload's body may take: a phone on a bad line needs a while.
const BODY_TIME: Duration = Duration::from_secs(90);

/// How long nothing of it may come. Even a bad line gets something across, and others wait for the place.
const CHUNK_TIME: Duration = Duration::from_secs(10);

/// PHOTO, as every list of photos has it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Photo {
    /// Leads to the photo's shard by itself, and says when it was posted.
    pub(crate) id: Id,
    /// The id's short form, as in `/p/{code}`.
    pub(crate) code: String,
    /// Who posted it.
    pub(crate) user: Person,
    /// May be empty.
    pub(crate) caption: String,
    /// When it was taken, where the camera said so.
    pub(crate) taken_at: Option<DateTime<Utc>>,
    /// When it was posted.
    pub(crate) created_at: DateTime<Utc>,
    /// In pixels, upright.
    pub(crate) width: i32,
    /// In pixels, upright.
    pub(crate) height: i32,
    /// Where the picture is served.
    pub(crate) url: String,
    /// Where its smaller forms are served.
    pub(crate) thumbnails: Thumbnails,
    /// How many like it.
    pub(crate) likes: i32,
    /// Whether the one who asks does.
    pub(crate) liked: bool,
    /// How many comments it has.
    pub(crate) comments: i32,
    /// Where it was taken, in degrees; given with the upload, never taken from the picture's metadata.
    pub(crate) lat: Option<f64>,
    /// See `lat`.
    pub(crate) lon: Option<f64>,
}

/// The smaller forms of a photo.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Thumbnails {
    /// A square for grids.
    pub(crate) small: String,
    /// The whole picture for a feed.
    pub(crate) large: String,
}

impl Photo {
    pub(crate) fn from_row(row: &Row, layout: Layout) -> Self {
        let id: Id = row.get("id");
        let url = |column: &str| format!("/media/{}", row.get::<_, &str>(column));
        Self {
            id,
            code: id.to_code(),
            user: Person { id: row.get("user_id"), name: row.get("user_name") },
            caption: row.get("caption"),
            taken_at: row.get("taken_at"),
            created_at: layout.decode(id).time(),
            width: row.get("width"),
            height: row.get("height"),
            url: url("original"),
            thumbnails: Thumbnails { small: url("small"), large: url("large") },
            likes: row.get("likes"),
            liked: row.get("liked"),
            comments: row.get("comments"),
            lat: row.get("lat"),
            lon: row.get("lon"),
        }
    }
}

/// One of the places of a user, and one of those of all.
pub(crate) type Places = [OwnedSemaphorePermit; 2];

/// The body of an upload, read whole, once it is known who sends it. It holds one of a few places of its user, and one of
/// all, which bounds the memory of all uploads.
pub(crate) struct Upload {
    image: Bytes,
    pub(crate) caption: String,
    position: Option<(f64, f64)>,
    places: Places,
}

impl FromRequest<App> for Upload {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if !content_type.is_some_and(|t| t.as_bytes().starts_with(b"multipart/form-data")) {
            return Err(Problem::new(
                Kind::UnsupportedMediaType,
                "Send the photo as multipart/form-data, in a field `image`.",
            ));
        }
        let Some(Person { id, .. }) = request.extensions().get() else {
            return Err(Problem::internal(
                "a body is read of somebody unknown: extract them first",
            ));
        };
        let places = [app.uploads_of_each.enter(*id).await?, app.uploads.enter().await?];
        let form = Multipart::from_request(request, app)
            .await
            .map_err(|rejection| Problem::invalid(rejection.body_text()))?;
        let Fields { image, caption, lat, lon } = arriving(BODY_TIME, Fields::read(form)).await??;
        // A browser sends every field of a form, empty ones too.
        let given = |field: Option<String>| field.filter(|text| !text.trim().is_empty());
        let (lat, lon) = (given(lat), given(lon));
        Ok(Self {
            image: image
                .filter(|image| !image.is_empty())
                .ok_or_else(|| Problem::invalid("image: there is no picture in the form"))?,
            caption: input::text("caption", &caption.unwrap_or_default(), MAX_CAPTION_CHARS)?,
            position: input::position(lat.as_deref(), lon.as_deref())?,
            places,
        })
    }
}

/// The fields of an upload's form, as they are sent.
#[derive(Default)]
struct Fields {
    image: Option<Bytes>,
    caption: Option<String>,
    lat: Option<String>,
    lon: Option<String>,
}

impl Fields {
    async fn read(mut form: Multipart) -> Result<Self, Problem> {
        let mut fields = Self::default();
        while let Some(field) = in_time(form.next_field()).await? {
            match field.name() {
                Some("image") => fields.image = Some(bytes(field).await?),
                Some("caption") => fields.caption = Some(in_time(field.text()).await?),
                Some("lat") => fields.lat = Some(in_time(field.text()).await?),
                Some("lon") => fields.lon = Some(in_time(field.text()).await?),
                // Read to its end here, where time counts anew for each chunk.
                _ => drop(bytes(field).await?),
            }
        }
        Ok(fields)
    }
}

async fn bytes(mut field: Field<'_>) -> Result<Bytes, Problem> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = in_time(field.chunk()).await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// The next part of the body, if something comes at all.
async fn in_time<T>(part: impl Future<Output = Result<T, MultipartError>>) -> Result<T, Problem> {
    arriving(CHUNK_TIME, part).await?.map_err(refused)
}

fn refused(error: MultipartError) -> Problem {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Kind::TooLarge.into(),
        _ => Problem::invalid(error.body_text()),
    }
}

/// `POST /api/photos`
pub(crate) async fn create(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    key: Option<IdempotencyKey>,
    upload: Upload,
) -> Result<(StatusCode, Json<Photo>), Problem> {
    Ok((StatusCode::CREATED, Json(post(&app, &viewer, upload, key).await?)))
}

pub(crate) async fn post(
    app: &App,
    author: &Person,
    upload: Upload,
    key: Option<IdempotencyKey>,
) -> Result<Photo, Problem> {
    let Upload { image, caption, position, places } = upload;
    let claim = match key {
        Some(key) => {
            let (user, image, caption) = (author.id, image.clone(), caption.clone());
            // Megabytes are hashed, which keeps a core busy.
            let claim = app.pictures.run(move || {
                let place = format!("{position:?}");
                let parts = [&image[..], caption.as_bytes(), place.as_bytes()];
                Claim::new(user, user, key, &parts)
            });
            Some(claim.await?)
        }
        None => None,
    };
    if let Some(claim) = &claim {
        match claim.earlier(&app.cluster.shard_of_id(author.id)?).await? {
            Earlier::Nothing => {}
            Earlier::Made(photo) => return made_before(app, author, photo).await,
            Earlier::AnotherRequest => return Err(Kind::KeyReused.into()),
        }
    }
    let limits = app.limits.clone();
    let picture = app.pictures.run(move || picture::process(image, &limits)).await?;
    let author = author.clone();
    let (picture, places) = (picture?, Some(places));
    add(app, NewPhoto { author, picture, caption, position, claim, places }).await
}

impl From<PictureError> for Problem {
    fn from(error: PictureError) -> Self {
        let kind = match error {
            PictureError::TooLarge(_) => Kind::TooLarge,
            _ => Kind::UnusablePicture,
        };
        Self::new(kind, error.to_string())
    }
}

/// A photo that is about to be.
pub(crate) struct NewPhoto {
    pub(crate) author: Person,
    pub(crate) picture: Picture,
    pub(crate) caption: String,
    pub(crate) position: Option<(f64, f64)>,
    pub(crate) claim: Option<Claim>,
    /// An upload's, which counts until it is stored, also when nobody waits for that any more.
    pub(crate) places: Option<Places>,
}

/// What became of it.
enum Added {
    Now(Row),
    Before(Id),
}

/// Stores the files, then the row that leads to them: whoever sees the photo can see the picture.
pub(crate) async fn add(app: &App, new: NewPhoto) -> Result<Photo, Problem> {
    let author = new.author.clone();
    match to_the_end(store_and_insert(app.clone(), new)).await? {
        Added::Now(row) => Ok(Photo::from_row(&row, app.cluster.layout())),
        Added::Before(photo) => made_before(app, &author, photo).await,
    }
}

async fn store_and_insert(app: App, new: NewPhoto) -> Result<Added, Problem> {
    let NewPhoto { author, picture, caption, position, claim, places: _places } = new;
    let Picture { original, small, large, taken_at, .. } = picture;
    let size = [original.width, original.height];
    let files = [original, small, large].map(|file| (MediaKey::random(file.format), file.bytes));
    let keys = files.each_ref().map(|(key, _)| *key);
    let row = NewRow { author, caption, taken_at, position, size, keys };

    let shard = app.cluster.shard_of_id(row.author.id)?;
    discarded::note(&shard, &keys).await?;
    if let Err(error) = store_all(&app.store, files).await {
        discarded::remove(&app.store, &shard, &keys).await;
        return Err(Problem::internal(error));
    }
    let added = row.insert(&shard, claim.as_ref()).await;
    match &added {
        Ok(Added::Now(_)) => {}
        // Perhaps the row is there. If it is not, the files are still noted, and the next sweep removes them.
        Err(error) if error.outcome() == Outcome::Unknown => {}
        _ => {
            discarded::remove(&app.store, &shard, &keys).await;
        }
    }
    Ok(added?)
}

async fn store_all(store: &Store, files: [(MediaKey, Bytes); 3]) -> Result<(), StoreError> {
    for (key, bytes) in files {
        store.put(key, bytes).await?;
    }
    Ok(())
}

/// What is known of a photo's row before it is there.
struct NewRow {
    author: Person,
    caption: String,
    taken_at: Option<DateTime<Utc>>,
    position: Option<(f64, f64)>,
    size: [u32; 2],
    keys: [MediaKey; 3],
}

impl NewRow {
    async fn insert(&self, shard: &Shard, claim: Option<&Claim>) -> howdah::Result<Added> {
        const COUNT: Statement =
            Statement::new("UPDATE {shard}.users SET photos = photos + 1 WHERE id = $1");

        shard
            .transaction(async |tx| {
                if let Some(claim) = claim {
                    match claim.take(&tx).await? {
                        Earlier::Nothing => {}
                        Earlier::Made(photo) => return Ok(Added::Before(photo)),
                        Earlier::AnotherRequest => {
                            return Err(Error::abort(Problem::from(Kind::KeyReused)));
                        }
                    }
                }
                if !discarded::keep(&tx, &self.keys).await? {
                    return Err(Error::abort(Problem::from(Kind::Busy)));
                }
                let row = self.add(&tx).await?;
                tx.execute(&COUNT, &[&self.author.id]).await?;
                if let Some(claim) = claim {
                    claim.made(&tx, row.get("id")).await?;
                }
                Ok(Added::Now(row))
            })
            .await
    }

    async fn add(&self, tx: &Tx) -> howdah::Result<Row> {
        const ADD: Statement = Statement::new(
            "INSERT INTO {shard}.photos (user_id, user_name, caption, taken_at, lat, lon,
                                         width, height, original, small, large)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             RETURNING id, user_id, user_name, caption, taken_at, lat, lon, width, height,
                       original, small, large, likes, false AS liked, comments",
        );

        let Person { id, name } = &self.author;
        let (lat, lon) = self.position.unzip();
        let [width, height] = self.size.map(u32::cast_signed);
        let [original, small, large] = self.keys.map(|key| key.to_string());
        tx.query_one(
            &ADD,
            &[
                id,
                name,
                &self.caption,
                &self.taken_at,
                &lat,
                &lon,
                &width,
                &height,
                &original,
                &small,
                &large,
            ],
        )
        .await
    }
}

/// Goes on when whoever asked for it is gone: what is begun in the store is ended.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work.in_current_span()).await.map_err(Problem::internal)?
}

async fn made_before(app: &App, author: &Person, photo: Id) -> Result<Photo, Problem> {
    match find(app, Some(author), photo).await {
        Err(problem) if problem.kind() == Kind::NotFound => Err(Kind::Gone.into()),
        found => found,
    }
}

/// `GET /api/photos/{id}`
pub(crate) async fn show(
    State(app): State<App>,
    viewer: Option<Viewer>,
    PhotoId(photo): PhotoId,
) -> Result<Json<Photo>, Problem> {
    let viewer = viewer.map(|viewer| viewer.0);
    Ok(Json(find(&app, viewer.as_ref(), photo).await?))
}

pub(crate) async fn find(app: &App, viewer: Option<&Person>, photo: Id) -> Result<Photo, Problem> {
    const BY_ID: Statement = Statement::new(
        "SELECT id, user_id, user_name, caption, taken_at, lat, lon, width, height,
                original, small, large, likes, comments,
                EXISTS (SELECT FROM {shard}.likes l WHERE l.photo_id = p.id AND l.user_id = $2) AS liked
         FROM {shard}.photos p WHERE id = $1",
    );

    let row =
        shard_of(app, photo)?.query_opt(&BY_ID, &[&photo, &viewer.map(|viewer| viewer.id)]).await?;
    let row = row.ok_or_else(no_photo)?;
    Ok(Photo::from_row(&row, app.cluster.layout()))
}

/// Where a photo is, if it is anywhere: an id may name a shard that this cluster does not have.
pub(crate) fn shard_of(app: &App, photo: Id) -> Result<Shard, Problem> {
    app.cluster.shard_of_id(photo).map_err(|_| no_photo())
}

pub(crate) fn no_photo() -> Problem {
    Problem::not_found("photo")
}

/// `DELETE /api/photos/{id}`
pub(crate) async fn delete(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    PhotoId(photo): PhotoId,
) -> Result<StatusCode, Problem> {
    remove(&app, &viewer, photo).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn remove(app: &App, viewer: &Person, photo: Id) -> Result<(), Problem> {
    let shard = shard_of(app, photo)?;
    let (store, user) = (app.store.clone(), viewer.id);
    let removed = to_the_end(async move {
        let files = delete_row(&shard, photo, user).await?;
        if let Some(files) = &files {
            discarded::remove(&store, &shard, files).await;
        }
        Ok(files.is_some())
    });
    if !removed.await? {
        find(app, None, photo).await?;
        return Err(Kind::NotYours.into());
    }
    Ok(())
}

/// The files of the photo, which are noted to be removed; `None` if the user has no such photo.
async fn delete_row(shard: &Shard, photo: Id, user: Id) -> howdah::Result<Option<[MediaKey; 3]>> {
    const REMOVE: Statement = Statement::new(
        "DELETE FROM {shard}.photos WHERE id = $1 AND user_id = $2
         RETURNING original, small, large",
    );
    const COUNT: Statement =
        Statement::new("UPDATE {shard}.users SET photos = photos - 1 WHERE id = $1");

    shard
        .transaction(async |tx| {
            let Some(row) = tx.query_opt(&REMOVE, &[&photo, &user]).await? else {
                return Ok(None);
            };
            tx.execute(&COUNT, &[&user]).await?;
            let file = |column| row.get::<_, &str>(column).parse().map_err(Error::abort);
            let files = [file("original")?, file("small")?, file("large")?];
            discarded::discard(&tx, &files).await?;
            Ok(Some(files))
        })
        .await
}

/// `GET /api/users/{name}/photos`
pub(crate) async fn of_user(
    State(app): State<App>,
    viewer: Option<Viewer>,
    name: UserName,
    range: Range,
) -> Result<Json<List<Photo>>, Problem> {
    let user = users::find(&app, &name).await?;
    let viewer = viewer.map(|viewer| viewer.0);
    Ok(Json(list(&app, viewer.as_ref(), &user, range).await?))
}

pub(crate) async fn list(
    app: &App,
    viewer: Option<&Person>,
    user: &Person,
    range: Range,
) -> Result<List<Photo>, Problem> {
    const OF_USER: Statement = Statement::new(
        "SELECT id, user_id, user_name, caption, taken_at, lat, lon, width, height,
                original, small, large, likes, comments,
                EXISTS (SELECT FROM {shard}.likes l WHERE l.photo_id = p.id AND l.user_id = $2) AS liked
         FROM {shard}.photos p WHERE user_id = $1 AND id < $3 ORDER BY id DESC LIMIT $4",
    );

    let layout = app.cluster.layout();
    let page = app
        .cluster
        .scatter(&OF_USER)
        .shard(layout.shard_of(user.id), &[&user.id, &viewer.map(|viewer| viewer.id)])
        .page("id", range.before.as_ref(), range.limit)
        .await?;
    Ok(List::new(page, |row| Photo::from_row(row, layout)))
}
