//! Random forests by `smartcore`: its regressor on 0/1 labels, whose leaves hold the share of
//! fraud among their rows (its classifier only votes). The trees are read out through serde,
//! since the crate shows them no other way.

use super::{Dataset, TrainError};
use crate::models::compiled::{Calibration, Compiled, Form, Node, Tree};
use serde::{Deserialize, Serialize};
use smartcore::ensemble::random_forest_regressor::{RandomForestRegressor, RandomForestRegressorParameters};
use smartcore::linalg::basic::matrix::DenseMatrix;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForestParameters {
    pub trees: u16,
    /// Splits from root to leaf at most, 1 to 16.
    pub depth: u16,
    /// Training rows a leaf at least.
    pub min_leaf: usize,
    /// Features tried a split; the square root of their number where not given.
    pub features_per_split: Option<usize>,
    /// Share (0 to 1] of legitimate rows kept for training; corrected for in the probability.
    pub keep_legitimate: f64,
    pub seed: u64,
}

impl Default for ForestParameters {
    fn default() -> Self {
        Self { trees: 100, depth: 7, min_leaf: 5, features_per_split: None, keep_legitimate: 1.0, seed: 0 }
    }
}

type Fitted = RandomForestRegressor<f64, f64, DenseMatrix<f64>, Vec<f64>>;

/// Trains and compiles.
///
/// # Errors
/// When the data or a parameter is of no use, or the trainer fails.
pub fn train_forest(data: &Dataset, parameters: &ForestParameters) -> Result<Compiled, TrainError> {
    data.validate()?;
    let wrong =
        |name, value: &dyn ToString, expected| Err(TrainError::Parameter { name, value: value.to_string(), expected });
    if !(1..=16).contains(&parameters.depth) {
        return wrong("depth", &parameters.depth, "1 to 16");
    }
    if parameters.trees == 0 {
        return wrong("trees", &parameters.trees, "at least 1");
    }
    if !(parameters.keep_legitimate > 0.0 && parameters.keep_legitimate <= 1.0) {
        return wrong("keep_legitimate", &parameters.keep_legitimate, "more than 0, at most 1");
    }
    if parameters.features_per_split.is_some_and(|m| m == 0 || m > data.width()) {
        return wrong(
            "features_per_split",
            &format!("{:?}", parameters.features_per_split),
            "from 1 to the number of features",
        );
    }
    let (sample, share) = if parameters.keep_legitimate < 1.0 {
        data.down_sampled(parameters.keep_legitimate, parameters.seed)
    } else {
        (data.clone(), 1.0)
    };
    let means = sample.means();
    let rows = sample.imputed(&means);
    let fitted = fit(&sample, rows.clone(), parameters)?;
    let mut trees = read_out(&fitted)?;
    for tree in &mut trees {
        tree.count_cover(rows.chunks_exact(sample.width()));
    }
    let model = Compiled {
        width: u32::try_from(sample.width()).unwrap_or(u32::MAX),
        imputed: means,
        form: Form::Forest { trees },
        calibration: if share < 1.0 { Calibration::Kept { share } } else { Calibration::None },
    };
    model.validate()?;
    Ok(model)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn failed(why: impl ToString) -> TrainError {
    TrainError::Trainer { trainer: "forest", why: why.to_string() }
}

fn fit(sample: &Dataset, rows: Vec<f64>, parameters: &ForestParameters) -> Result<Fitted, TrainError> {
    let x = DenseMatrix::new(sample.len(), sample.width(), rows, false).map_err(failed)?;
    let y: Vec<f64> = sample.labels.iter().map(|fraud| f64::from(u8::from(*fraud))).collect();
    let mut settings = RandomForestRegressorParameters::default()
        // The crate counts levels of nodes, one more than splits.
        .with_max_depth(parameters.depth + 1)
        .with_min_samples_leaf(parameters.min_leaf.max(1))
        .with_n_trees(usize::from(parameters.trees))
        .with_seed(parameters.seed);
    settings.m = parameters.features_per_split;
    RandomForestRegressor::fit(&x, &y, settings).map_err(failed)
}

/// `smartcore` 0.7's own shape, as far as it is needed.
#[derive(Deserialize)]
struct Outer {
    forest_regressor: Inner,
}
#[derive(Deserialize)]
struct Inner {
    trees: Vec<TheirTree>,
}
#[derive(Deserialize)]
struct TheirTree {
    nodes: Vec<TheirNode>,
}
#[derive(Deserialize)]
struct TheirNode {
    output: f64,
    split_feature: u32,
    split_value: Option<f64>,
    true_child: Option<usize>,
    false_child: Option<usize>,
}

fn read_out(fitted: &Fitted) -> Result<Vec<Tree>, TrainError> {
    // Through a `Value`, which holds a double as it is: no digit is lost in text.
    let value = serde_json::to_value(fitted).map_err(failed)?;
    let outer: Outer = serde_json::from_value(value).map_err(failed)?;
    outer.forest_regressor.trees.iter().map(in_our_order).collect()
}

/// Renumbers from the root, parents first; what cannot be reached is dropped.
fn in_our_order(theirs: &TheirTree) -> Result<Tree, TrainError> {
    let mut order = vec![0];
    let mut nodes: Vec<Node> = Vec::new();
    while let Some(from) = order.get(nodes.len()).copied() {
        let node = theirs.nodes.get(from).ok_or_else(|| failed("a child that does not exist"))?;
        if order.len() > 2 * theirs.nodes.len() {
            return Err(failed("a tree that loops"));
        }
        nodes.push(match (node.split_value, node.true_child, node.false_child) {
            (Some(threshold), Some(left), Some(right)) => {
                let at = u32::try_from(order.len()).map_err(failed)?;
                order.extend([left, right]);
                Node::split(node.split_feature, threshold, at, at + 1, 0.0)
            }
            _ => Node::leaf(node.output, 0.0),
        });
    }
    Ok(Tree { nodes })
}

#[cfg(test)]
mod tests {
    use super::super::dataset::tests::example;
    use super::{ForestParameters, fit, read_out, train_forest};
    use crate::models::compiled::{Calibration, Form};
    use crate::models::scorer::{Scorer, Scratch};
    use smartcore::linalg::basic::matrix::DenseMatrix;

    #[test]
    fn compiled_scores_equal_the_trainers_own() {
        let data = example(1_500, 5);
        let parameters = ForestParameters { trees: 15, depth: 6, seed: 3, ..ForestParameters::default() };
        let model = train_forest(&data, &parameters).unwrap();
        let Form::Forest { trees } = &model.form else { panic!("a forest") };
        assert!(trees.iter().all(|tree| tree.depth() <= 6) && trees.iter().any(|tree| tree.depth() == 6));

        // Fresh rows, then rows at each threshold and the numbers next to it.
        let mut rows = example(500, 6).rows;
        for node in trees.iter().flat_map(|tree| &tree.nodes).filter(|node| !node.is_leaf()) {
            for value in [node.threshold, node.threshold.next_up(), node.threshold.next_down()] {
                let mut row = [0.3, 0.6, 0.5, 2.0];
                row[node.slot as usize] = value;
                rows.extend(row);
            }
        }
        let count = rows.len() / 4;
        let mut ours = vec![0.0; count];
        Scorer::new(&model).unwrap().score(&rows, &mut ours, &mut Scratch::default());

        let fitted = fit(&data, data.imputed(&model.imputed), &parameters).unwrap();
        let imputed: Vec<f64> =
            rows.iter().zip(model.imputed.iter().cycle()).map(|(v, m)| if v.is_finite() { *v } else { *m }).collect();
        let theirs = fitted.predict(&DenseMatrix::new(count, 4, imputed, false).unwrap()).unwrap();
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-6));
        assert_eq!(read_out(&fitted).unwrap().len(), 15);
    }

    #[test]
    fn the_same_data_and_seed_give_the_same_bytes() {
        let data = example(600, 7);
        let parameters = ForestParameters { trees: 5, keep_legitimate: 0.5, seed: 11, ..ForestParameters::default() };
        let bytes = train_forest(&data, &parameters).unwrap().encode().unwrap();
        assert_eq!(train_forest(&data, &parameters).unwrap().encode().unwrap(), bytes);
        let other = ForestParameters { seed: 12, ..parameters };
        assert_ne!(train_forest(&data, &other).unwrap().encode().unwrap(), bytes);
    }

    #[test]
    fn probabilities_after_down_sampling_match_the_streams_fraud_rate() {
        let (data, fresh) = (example(6_000, 8), example(4_000, 21));
        let parameters =
            ForestParameters { trees: 20, depth: 4, min_leaf: 20, keep_legitimate: 0.3, ..ForestParameters::default() };
        let model = train_forest(&data, &parameters).unwrap();
        assert!(matches!(model.calibration, Calibration::Kept { .. }));
        let mut scores = vec![0.0; fresh.len()];
        Scorer::new(&model).unwrap().score(&fresh.rows, &mut scores, &mut Scratch::default());
        let (mean, rate) = (scores.iter().sum::<f64>() / 4_000.0, fresh.frauds() as f64 / 4_000.0);
        assert!((mean - rate).abs() < 0.02, "{mean} {rate}");
    }
}
