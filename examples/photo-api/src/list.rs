//! Lists: every one is a page of `{"items", "next"}`, newest first, asked for with `?limit=` and `?before=`.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::extract::Query;
use axum::http::request::Parts;
use howdah::postgres::Row;
use howdah::{Cursor, ShardId};
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// A server that says nothing for so long counts as away, where there is something to show without it. Its reads take
/// milliseconds, and whoever looks at a page should not wait for one that hangs.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);

/// Which part of a list is asked for.
pub(crate) struct Range {
    pub(crate) before: Option<Cursor>,
    pub(crate) limit: usize,
}

impl Range {
    const DEFAULT_LIMIT: usize = 20;
    const MAX_LIMIT: usize = 100;

    /// The first page, of the usual length.
    pub(crate) const FIRST: Self = Self { before: None, limit: Self::DEFAULT_LIMIT };
}

impl<S: Send + Sync> FromRequestParts<S> for Range {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Asked {
            before: Option<String>,
            limit: Option<String>,
        }

        let Query(asked) = Query::<Asked>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::invalid(rejection.body_text()))?;
        let limit = match asked.limit.as_deref().map(str::parse) {
            None => Self::DEFAULT_LIMIT,
            Some(Ok(limit)) if (1..=Self::MAX_LIMIT).contains(&limit) => limit,
            Some(_) => {
                return Err(Problem::invalid(format!("limit: from 1 to {}", Self::MAX_LIMIT)));
            }
        };
        let before = match asked.before.as_deref().map(str::parse) {
            None => None,
            Some(Ok(cursor)) => Some(cursor),
            Some(Err(_)) => {
                return Err(Problem::invalid("before: pass on the `next` of the page before"));
            }
        };
        Ok(Self { before, limit })
    }
}

/// A part of a list.
#[derive(Debug, Serialize)]
pub(crate) struct List<T> {
    pub(crate) items: Vec<T>,
    /// What to pass as `before` for the part that follows; none at the end.
    pub(crate) next: Option<String>,
    /// The numbers of the shards that could not be reached. `next` keeps their place: what is missing here comes
    /// with a later page, once they are back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) incomplete: Vec<u16>,
}

impl<T> List<T> {
    pub(crate) fn new(page: howdah::Page, item: impl FnMut(&Row) -> T) -> Self {
        Self {
            items: page.rows.iter().map(item).collect(),
            next: page.next.map(|cursor| cursor.to_string()),
            incomplete: page.missing.into_iter().map(ShardId::get).collect(),
        }
    }

    pub(crate) const EMPTY: Self = Self { items: Vec::new(), next: None, incomplete: Vec::new() };
}
