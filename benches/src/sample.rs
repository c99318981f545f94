//! One measurement, and how several become one figure.

use std::collections::BTreeMap;

/// One measurement: the figure that is compared, and what was counted or measured beside it.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    pub(crate) value: f64,
    counts: BTreeMap<&'static str, u64>,
    figures: BTreeMap<&'static str, f64>,
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
    let sums = sums.into_iter().map(|(key, sum)| (format!("{prefix}{key}"), sum.into()));
    let medians =
        lists.into_iter().map(|(key, list)| (format!("{prefix}{key}"), rounded(median(list))));
    sums.chain(medians).collect()
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
