//! One value out of many shards' values.

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, FromSqlOwned};

use super::number::Number;
use super::scatter::Scatter;
use crate::error::Kind;
use crate::shard::ShardId;
use crate::{Error, Outcome, Result};

/// A value over many shards.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Aggregate<T> {
    /// The value, of those shards that answered.
    pub value: T,
    /// The shards that could not be reached, in order; empty unless [`Scatter::partial`] was asked for.
    pub missing: Vec<ShardId>,
}

/// What [`Scatter::sum`] adds up: `i128` for whole numbers, `f64` for floating ones.
pub trait Summand: sealed::Summand {}

impl Summand for i128 {}
impl Summand for f64 {}

mod sealed {
    use super::{Number, Result};

    pub trait Summand: Sized + Send {
        fn from_number(number: Number) -> Result<Self>;
    }
}

impl sealed::Summand for i128 {
    fn from_number(number: Number) -> Result<Self> {
        match number {
            Number::Whole(number) => Ok(number),
            Number::Floating(number) => Err(wrong(format!("{number} is not a whole number"))
                .hint("ask for an f64, or add up whole numbers")),
        }
    }
}

impl sealed::Summand for f64 {
    fn from_number(number: Number) -> Result<Self> {
        match number {
            Number::Floating(number) => Ok(number),
            Number::Whole(number) => Err(wrong(format!("{number} is a whole number"))
                .hint("ask for an i128, or cast the sum to float8")),
        }
    }
}

impl Scatter<'_> {
    /// The sum of all shards' counts. The statement returns one: `SELECT count(*) FROM {shard}.photos`.
    ///
    /// # Errors
    ///
    /// As [`Scatter::rows`]; when a shard answers with anything but one row of one `bigint`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use howdah::{Cluster, Statement};
    /// const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.photos");
    ///
    /// # async fn example(cluster: Cluster) -> howdah::Result<()> {
    /// let photos = cluster.scatter(&COUNT).all(&[]).count().await?.value;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn count(self) -> Result<Aggregate<u64>> {
        let (counts, missing) = self.values(|row| value::<i64>(row, 0)).await?;
        let mut sum = 0_u64;
        for count in counts {
            let count = u64::try_from(count).ok().and_then(|count| sum.checked_add(count));
            sum = count.ok_or_else(|| wrong("a count is not negative".to_owned()))?;
        }
        Ok(Aggregate { value: sum, missing })
    }

    /// The sum of all shards' sums; `None` where no shard has any, as in SQL. The statement returns one:
    /// `SELECT sum(likes) FROM {shard}.photos`.
    ///
    /// In PostgreSQL the sum of `bigint`s is a `numeric`, because it may not fit a `bigint`; here it is an `i128`, and so
    /// is that of any other whole numbers. Sums of `real` and `double precision` are `f64`, added in the order of the shards.
    /// For numbers with decimals add up their smallest unit, such as cents.
    ///
    /// # Errors
    ///
    /// As [`Scatter::rows`]; when a shard answers with anything but one row of one number of that kind.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use howdah::{Cluster, Statement};
    /// const LIKES: Statement = Statement::new("SELECT sum(likes) FROM {shard}.photos");
    ///
    /// # async fn example(cluster: Cluster) -> howdah::Result<()> {
    /// let likes: Option<i128> = cluster.scatter(&LIKES).all(&[]).sum().await?.value;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sum<T: Summand>(self) -> Result<Aggregate<Option<T>>> {
        let (sums, missing) = self.values(|row| value::<Option<Number>>(row, 0)).await?;
        let value = total(sums)?.map(T::from_number).transpose()?;
        Ok(Aggregate { value, missing })
    }

    /// The least of all shards' values; `None` where no shard has any. The statement returns one:
    /// `SELECT min(taken_at) FROM {shard}.photos`.
    ///
    /// Over the shards, values are compared as Rust does. For text that is by bytes, so have PostgreSQL do the same
    /// within a shard: `min(name COLLATE "C")`.
    ///
    /// # Errors
    ///
    /// As [`Scatter::rows`]; when a shard answers with anything but one row of one value of that type.
    pub async fn min<T: FromSqlOwned + Ord>(self) -> Result<Aggregate<Option<T>>> {
        let (values, missing) = self.values(|row| value::<Option<T>>(row, 0)).await?;
        Ok(Aggregate { value: values.into_iter().flatten().min(), missing })
    }

    /// The greatest of all shards' values; as [`Scatter::min`].
    ///
    /// # Errors
    ///
    /// As [`Scatter::min`].
    pub async fn max<T: FromSqlOwned + Ord>(self) -> Result<Aggregate<Option<T>>> {
        let (values, missing) = self.values(|row| value::<Option<T>>(row, 0)).await?;
        Ok(Aggregate { value: values.into_iter().flatten().max(), missing })
    }

    /// The average over all shards; `None` where there is nothing to average. The statement returns a sum and a count:
    /// `SELECT sum(likes), count(likes) FROM {shard}.photos`. An average of the shards' averages would be wrong, for
    /// shards differ in size.
    ///
    /// # Errors
    ///
    /// As [`Scatter::rows`]; when a shard answers with anything but one row of a sum and a `bigint`.
    pub async fn average(self) -> Result<Aggregate<Option<f64>>> {
        let part = |row: &Row| Ok((value::<Option<Number>>(row, 0)?, value::<i64>(row, 1)?));
        let (parts, missing) = self.values(part).await?;
        let (sums, counts): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let count: i128 = counts.into_iter().map(i128::from).sum();
        let sum = total(sums)?.filter(|_| count > 0);
        Ok(Aggregate { value: sum.map(|sum| sum.to_f64() / count as f64), missing })
    }

    /// The value of each shard's only row, in the order of the shards.
    async fn values<T>(
        self,
        read: impl Fn(&Row) -> Result<T> + Send,
    ) -> Result<(Vec<T>, Vec<ShardId>)> {
        let (answers, missing) = self.answers().await?;
        let mut values = Vec::with_capacity(answers.len());
        for (shard, rows) in answers {
            match rows.as_slice() {
                [row] => values.push(read(row)?),
                _ => {
                    let found = rows.len();
                    return Err(wrong(format!(
                        "shard {shard} has {found} rows, and not one value"
                    ))
                    .hint("leave out GROUP BY, or use `rows`"));
                }
            }
        }
        Ok((values, missing))
    }
}

fn value<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    row.try_get(column)
        .map_err(|error| wrong("a value is of another type".to_owned()).because(error))
}

/// The sum of those that are there.
fn total(numbers: Vec<Option<Number>>) -> Result<Option<Number>> {
    let mut numbers = numbers.into_iter().flatten();
    let Some(mut sum) = numbers.next() else { return Ok(None) };
    for number in numbers {
        sum = sum.plus(number)?;
    }
    Ok(Some(sum))
}

fn wrong(what: String) -> Error {
    Error::new(Kind::Rows, what).with_outcome(Outcome::Failed)
}
