//! `/api/users/{name}/follow`: who follows whom, kept on both users' shards.
//!
//! A feed starts from the follower's half; the followed user's tells who follows back. One transaction over shards writes
//! both or neither, so following and unfollowing take both shards.

use axum::extract::State;
use axum::http::StatusCode;
use howdah::postgres::types::ToSql;
use howdah::{Id, Statement, Tx};

use crate::App;
use crate::input::UserName;
use crate::problem::{Kind, Problem};
use crate::sessions::Viewer;
use crate::users::{self, Person};

/// How many a user may follow. It bounds what a feed asks of each shard; people who mean it need fewer.
pub(crate) const MAX_FOLLOWED: i32 = 5000;

/// `PUT /api/users/{name}/follow`
pub(crate) async fn add(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    name: UserName,
) -> Result<StatusCode, Problem> {
    follow(&app, &viewer, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn follow(app: &App, viewer: &Person, name: &UserName) -> Result<(), Problem> {
    // The row and its count change in one statement; neither does where the row is there already.
    const FOLLOW: Statement = Statement::new(
        "WITH added AS (
             INSERT INTO {shard}.follows (follower_id, followee_id, followee_name)
             SELECT id, $2, $3 FROM {shard}.users WHERE id = $1 AND following < $4
             ON CONFLICT DO NOTHING RETURNING follower_id)
         UPDATE {shard}.users u SET following = following + 1 FROM added WHERE u.id = added.follower_id",
    );

    const FOLLOWED: Statement = Statement::new(
        "INSERT INTO {shard}.followers (followee_id, follower_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    );

    let followee = users::find(app, name).await?;
    if followee.id == viewer.id {
        return Err(Problem::invalid("You cannot follow yourself."));
    }
    let own = app.cluster.shard_of_id(viewer.id)?;
    let theirs = app.cluster.shard_of_id(followee.id)?;
    let follows = app
        .cluster
        .transaction(async |tx| {
            let here = tx.on(&own).await?;
            lock(&here, viewer).await?;
            let params: [&(dyn ToSql + Sync); 4] =
                [&viewer.id, &followee.id, &followee.name, &MAX_FOLLOWED];
            if here.execute(&FOLLOW, &params).await? == 0 {
                // Because they do already, or because they may not.
                let known = here.query_opt(&FOLLOWS, &[&viewer.id, &followee.id]).await?;
                return Ok(known.is_some());
            }
            tx.on(&theirs).await?.execute(&FOLLOWED, &[&followee.id, &viewer.id]).await?;
            Ok(true)
        })
        .await?;
    if follows { Ok(()) } else { Err(Kind::TooManyFollowed.into()) }
}

const FOLLOWS: Statement =
    Statement::new("SELECT FROM {shard}.follows WHERE follower_id = $1 AND followee_id = $2");

/// Following and unfollowing happen one after the other for each user, so that each sees what the one before has
/// done.
async fn lock(shard: &Tx, user: &Person) -> howdah::Result<()> {
    const LOCK: Statement =
        Statement::new("SELECT FROM {shard}.users WHERE id = $1 FOR NO KEY UPDATE");

    shard.query_opt(&LOCK, &[&user.id]).await?;
    Ok(())
}

pub(crate) async fn is_following(
    app: &App,
    viewer: &Person,
    followee: Id,
) -> Result<bool, Problem> {
    let shard = app.cluster.shard_of_id(viewer.id)?;
    Ok(shard.query_opt(&FOLLOWS, &[&viewer.id, &followee]).await?.is_some())
}

/// `DELETE /api/users/{name}/follow`
pub(crate) async fn delete(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    name: UserName,
) -> Result<StatusCode, Problem> {
    unfollow(&app, &viewer, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn unfollow(app: &App, viewer: &Person, name: &UserName) -> Result<(), Problem> {
    const UNFOLLOW: Statement = Statement::new(
        "WITH removed AS (
             DELETE FROM {shard}.follows WHERE follower_id = $1 AND followee_id = $2
             RETURNING follower_id)
         UPDATE {shard}.users u SET following = following - 1 FROM removed WHERE u.id = removed.follower_id",
    );
    const UNFOLLOWED: Statement =
        Statement::new("DELETE FROM {shard}.followers WHERE followee_id = $1 AND follower_id = $2");

    let followee = users::find(app, name).await?;
    let own = app.cluster.shard_of_id(viewer.id)?;
    let theirs = app.cluster.shard_of_id(followee.id)?;
    app.cluster
        .transaction(async |tx| {
            let here = tx.on(&own).await?;
            lock(&here, viewer).await?;
            here.execute(&UNFOLLOW, &[&viewer.id, &followee.id]).await?;
            tx.on(&theirs).await?.execute(&UNFOLLOWED, &[&followee.id, &viewer.id]).await
        })
        .await?;
    Ok(())
}

/// Whether somebody follows the viewer, which is told by the viewer's own shard.
pub(crate) async fn is_followed_by(
    app: &App,
    viewer: &Person,
    follower: Id,
) -> Result<bool, Problem> {
    const FOLLOWED: Statement =
        Statement::new("SELECT FROM {shard}.followers WHERE followee_id = $1 AND follower_id = $2");

    let shard = app.cluster.shard_of_id(viewer.id)?;
    Ok(shard.query_opt(&FOLLOWED, &[&viewer.id, &follower]).await?.is_some())
}
