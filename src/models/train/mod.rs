//! Trainers: a labelled data set in, a compiled model out. The same data and parameters give the
//! same bytes.

mod dataset;
mod evaluate;
mod forest;
mod logistic;

pub use dataset::{Dataset, Parts, Split};
pub use evaluate::{About, evaluate};
pub use forest::{ForestParameters, train_forest};
pub use logistic::{LogisticParameters, train_logistic};

/// Why nothing could be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(
        "{rows} rows of {width} features need as many labels and event times: {values} values, {labels} labels, {times} times"
    )]
    Shape { rows: usize, width: usize, values: usize, labels: usize, times: usize },
    #[error("training needs frauds and legitimate transactions: {frauds} of {rows} rows are fraud")]
    OneClass { frauds: usize, rows: usize },
    #[error("parameter {name} is {value}; {expected}")]
    Parameter { name: &'static str, value: String, expected: &'static str },
    #[error("the {trainer} trainer failed: {why}")]
    Trainer { trainer: &'static str, why: String },
    #[error("the trained model is unusable: {0}")]
    Unusable(#[from] super::compiled::Unreadable),
}
