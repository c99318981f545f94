//! One measurement, and how several become one figure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Latencies;

/// One measurement: the figure that is compared, and what was counted or measured beside it.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    pub(crate) value: f64,
    counts: BTreeMap<&'static str, u64>,
    figures: BTreeMap<&'static str, f64>,
    times: BTreeMap<&'static str, Vec<Duration>>,
}

impl Sample {
    /// A measurement, in the unit of its case.
    #[must_use]
    pub fn new(value: f64) -> Self {
        Self { value, ..Self::default() }
    }

    /// Adds something that was counted, such as duplicates; over the pairs, counts are summed.
    #[must_use]
    pub fn count(mut self, key: &'static str, count: u64) -> Self {
        self.counts.insert(key, count);
        self
    }

    /// Adds something that was measured, such as a percentile; of the pairs' figures the median is reported.
    #[must_use]
    pub fn figure(mut self, key: &'static str, figure: f64) -> Self {
        self.figures.insert(key, figure);
        self
    }

    /// Adds how long each of some things took. Those of all pairs are taken together: `key_ms` is the one in the middle,
    /// `key_p99_ms` what 99 of a hundred stayed below, `key_worst_ms` the longest.
    #[must_use]
    pub fn times(mut self, key: &'static str, times: Vec<Duration>) -> Self {
        self.times.insert(key, times);
        self
    }
}

/// The side figures of several samples, as further keys of a row.
pub(crate) fn sides(samples: &[Sample], prefix: &str) -> Vec<(String, serde_json::Value)> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    let mut lists: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for sample in samples {
        for (key, count) in &sample.counts {
            *sums.entry(key).or_default() += count;
        }
        for (key, figure) in &sample.figures {
            lists.entry(key).or_default().push(*figure);
        }
    }
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for (key, some) in samples.iter().flat_map(|sample| &sample.times) {
        times.entry(key).or_default().extend(some);
    }
    let sums = sums.into_iter().map(|(key, sum)| (format!("{prefix}{key}"), sum.into()));
    let medians =
        lists.into_iter().map(|(key, list)| (format!("{prefix}{key}"), rounded(median(list))));
    let times = times.into_iter().flat_map(|(key, times)| {
        let times = Latencies::new(times);
        [("", 500), ("_p99", 990), ("_worst", 1000)].map(|(which, per_mille)| {
            (format!("{prefix}{key}{which}_ms"), rounded(times.us(per_mille) / 1000.0))
        })
    });
    sums.chain(medians).chain(times).collect()
}

/// The value in the middle; of an even number, the lower of the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().max(1) - 1) / 2).copied().unwrap_or(f64::NAN)
}

/// A figure with four significant digits: the rest is noise.
pub(crate) fn rounded(value: f64) -> serde_json::Value {
    format!("{value:.3e}").parse::<f64>().unwrap_or(value).into()
}
