//! Models: compiled, scored and explained without I/O (`compiled`, `scorer`, `reasons`, `metrics`); trained
//! by `train` or taken from other tools by `import`; kept on disk by `registry`, the only part that touches
//! files.

pub mod card;
pub mod compiled;
pub mod import;
pub mod manifest;
pub mod metrics;
pub mod reasons;
pub mod registry;
pub mod scorer;
pub mod synthetic;
pub mod train;

use compiled::{Compiled, Unreadable};
use manifest::Manifest;
use reasons::Reasons;
use scorer::{Scorer, Scratch};

/// A model in force: what the engine scores with.
#[derive(Debug, Clone)]
pub struct Model {
    name: String,
    version: String,
    pub manifest: Manifest,
    scorer: Scorer,
    reasons: Reasons,
}

impl Model {
    /// # Errors
    /// When the compiled model contradicts itself.
    pub fn new(name: &str, version: &str, compiled: Compiled, manifest: Manifest) -> Result<Self, Unreadable> {
        let scorer = Scorer::new(&compiled)?;
        Ok(Self { name: name.into(), version: version.into(), manifest, scorer, reasons: Reasons::new(compiled)? })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Features a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.scorer.width()
    }

    /// Probabilities of fraud for `scores.len()` rows laid end to end, `width` values each.
    ///
    /// # Panics
    /// When `width` is not this model's or `rows` is of another length: a mistake of the caller.
    pub fn score_block(&self, rows: &[f64], width: usize, scores: &mut [f64], scratch: &mut Scratch) {
        assert_eq!(width, self.width(), "rows of the model's own feature set");
        self.scorer.score(rows, scores, scratch);
    }

    /// The `k` features that raised this row's score most: slot and contribution, greatest first.
    #[must_use]
    pub fn reasons(&self, row: &[f64], k: usize) -> Vec<(usize, f64)> {
        self.reasons.top(row, k)
    }
}
