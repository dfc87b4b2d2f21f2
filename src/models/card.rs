//! The model card: what a reviewer reads before a model comes into force, with its plots as SVG.

use super::manifest::{Manifest, OperatingPoint};
use super::metrics::curve;
use plotters::prelude::*;
use std::fmt::Write;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// `card.md` and its plots, as files by name, from the evaluation's scores and labels.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn make(name: &str, manifest: &Manifest, scores: &[f64], labels: &[bool]) -> Result<Vec<(String, String)>, Failed> {
    let recall: Vec<(f64, f64)> = curve(scores, labels).iter().map(|point| (point.recall, point.precision)).collect();
    Ok(vec![
        ("card.md".into(), text(name, manifest)?),
        ("precision_recall.svg".into(), lines("Precision against recall", "recall", "precision", &recall, false)?),
        (
            "calibration.svg".into(),
            lines("Calibration", "mean score", "share of fraud", &calibration(scores, labels), true)?,
        ),
        ("scores.svg".into(), score_histogram(scores, labels)?),
        ("features.svg".into(), bars(&top(manifest, 15))?),
    ])
}

fn text(name: &str, manifest: &Manifest) -> Result<String, std::fmt::Error> {
    let mut card = String::new();
    let (metrics, at) = (&manifest.metrics, &manifest.metrics.at_threshold);
    writeln!(card, "# Model `{name}`: {}\n", manifest.kind)?;
    writeln!(card, "Made by Caddis {} with\n\n    {}\n", manifest.code_version, manifest.command)?;
    writeln!(card, "- Feature set `{}`, {} features", manifest.feature_set, manifest.feature_names.len())?;
    writeln!(
        card,
        "- Trained on {} transactions, {} of them fraud; data `{}`",
        manifest.training_rows, manifest.training_frauds, manifest.training_data
    )?;
    for (parameter, value) in &manifest.parameters {
        writeln!(card, "- {parameter}: {value}")?;
    }
    writeln!(card, "- seed: {}", manifest.seed)?;
    if let Some(parent) = &manifest.parent {
        writeln!(card, "- Meant to replace version `{parent}`")?;
    }
    writeln!(card, "\n## On {} later transactions that it never saw ({} fraud)\n", metrics.rows, metrics.frauds)?;
    writeln!(card, "| figure | value |\n|---|---|")?;
    for (figure, value) in [
        ("average precision", metrics.average_precision),
        ("ROC AUC", metrics.roc_auc),
        ("Brier score", metrics.brier),
        ("log loss", metrics.log_loss),
        ("precision at review", at.precision()),
        ("recall at review", at.recall()),
        ("F1 at review", at.f1()),
    ]
    .into_iter()
    .chain(manifest.further.iter().map(|(figure, value)| (figure.as_str(), *value)))
    {
        writeln!(card, "| {figure} | {value:.4} |")?;
    }
    writeln!(card, "\nReview from {:.6}, block from {:.6}.", manifest.thresholds.review, manifest.thresholds.block)?;
    if let Some(budget) = manifest.alert_budget {
        writeln!(card, "The review threshold was solved for {budget} alerts a day.")?;
    }
    let budgets = budgets(manifest);
    if !budgets.is_empty() {
        writeln!(
            card,
            "\n## What a budget comes to\n\nA policy may ask for another with `alert_budget`; it is never overrun on \
             these transactions.\n\n| budget a day | alerts a day | review from | precision | recall |\n|---|---|---|---|---|"
        )?;
    }
    for (budget, point) in budgets {
        let OperatingPoint { alerts_a_day, threshold, precision, recall } = point;
        writeln!(card, "| {budget} | {alerts_a_day:.1} | {threshold:.6} | {precision:.4} | {recall:.4} |")?;
    }
    writeln!(
        card,
        "\n![Precision against recall](precision_recall.svg)\n![Calibration](calibration.svg)\n![Scores](scores.svg)\n![Features](features.svg)\n"
    )?;
    writeln!(card, "## Features by mean absolute contribution\n\n| feature | contribution |\n|---|---|")?;
    for (feature, value) in top(manifest, 15) {
        writeln!(card, "| {feature} | {value:.5} |")?;
    }
    Ok(card)
}

/// 1, 2, 5 and so on up to where everything alerts, with what they come to.
fn budgets(manifest: &Manifest) -> Vec<(f64, OperatingPoint)> {
    let all = manifest.operating_points.last().map_or(0.0, |point| point.alerts_a_day);
    let decades = std::iter::successors(Some(1.0), |decade| Some(decade * 10.0)).take_while(|decade| *decade < all);
    let round = decades.flat_map(|decade| [decade, 2.0 * decade, 5.0 * decade]).take_while(|budget| *budget < all);
    round.filter_map(|budget| Some((budget, manifest.operating_point(budget)?))).collect()
}

fn top(manifest: &Manifest, count: usize) -> Vec<(String, f64)> {
    let mut ranked: Vec<(String, f64)> =
        manifest.feature_names.iter().cloned().zip(manifest.importance.iter().copied()).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(count);
    ranked
}

/// Mean score and share of fraud in up to ten groups of equally many rows, by score.
fn calibration(scores: &[f64], labels: &[bool]) -> Vec<(f64, f64)> {
    let mut ranked: Vec<(f64, f64)> =
        scores.iter().copied().zip(labels.iter().map(|fraud| f64::from(u8::from(*fraud)))).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        sum / count
    };
    ranked
        .chunks(ranked.len().div_ceil(10).max(1))
        .map(|group| {
            (mean(&mut group.iter().map(|(score, _)| *score)), mean(&mut group.iter().map(|(_, fraud)| *fraud)))
        })
        .collect()
}

const SIZE: (u32, u32) = (560, 360);

fn lines(title: &str, x: &str, y: &str, points: &[(f64, f64)], diagonal: bool) -> Result<String, Failed> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
        chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw()?;
        if diagonal {
            chart.draw_series(LineSeries::new([(0.0, 0.0), (1.0, 1.0)], BLACK.mix(0.3)))?;
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, BLUE.filled())))?;
        }
        chart.draw_series(LineSeries::new(points.iter().copied(), &BLUE))?;
        area.present()?;
    }
    Ok(svg)
}

/// Rows by score in twenty bins, as powers of ten: fraud is rare.
fn score_histogram(scores: &[f64], labels: &[bool]) -> Result<String, Failed> {
    let log_counts = |fraud: bool| -> Vec<f64> {
        (0..20)
            .map(f64::from)
            .map(|bin| {
                let inside = |score: f64| {
                    (score * 20.0).floor().clamp(0.0, 19.0) >= bin && (score * 20.0).floor().clamp(0.0, 19.0) <= bin
                };
                let count =
                    scores.iter().zip(labels).filter(|(score, label)| **label == fraud && inside(**score)).count();
                u32::try_from(count + 1).map_or(0.0, f64::from).log10()
            })
            .collect()
    };
    let (fraud, legitimate) = (log_counts(true), log_counts(false));
    let highest = fraud.iter().chain(&legitimate).copied().fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption("Scores: legitimate blue, fraud red", ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..1.0, 0.0..highest)?;
        chart.configure_mesh().x_desc("score").y_desc("log10(rows + 1)").light_line_style(WHITE).draw()?;
        for (heights, colour, shift) in [(legitimate, BLUE, 0.002), (fraud, RED, 0.025)] {
            chart.draw_series(heights.into_iter().zip((0..20).map(|bin| f64::from(bin) / 20.0)).map(
                |(height, from)| {
                    Rectangle::new([(from + shift, 0.0), (from + shift + 0.022, height)], colour.mix(0.7).filled())
                },
            ))?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn bars(ranked: &[(String, f64)]) -> Result<String, Failed> {
    let widest = ranked.iter().map(|(_, value)| *value).fold(1e-9, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        area.draw(&Text::new("Features by mean absolute contribution", (12, 12), ("sans-serif", 18)))?;
        for ((name, value), top) in ranked.iter().zip((44..).step_by(20)) {
            #[expect(clippy::cast_possible_truncation, reason = "a share of 300 pixels")]
            let length = (value / widest * 300.0) as i32;
            area.draw(&Text::new(name.clone(), (12, top), ("sans-serif", 12)))?;
            area.draw(&Rectangle::new([(230, top), (230 + length, top + 14)], BLUE.filled()))?;
        }
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
pub(super) mod tests {
    use crate::models::compiled::Compiled;
    use crate::models::manifest::{Histogram, Manifest, OperatingPoint, Thresholds};
    use crate::models::metrics::Metrics;
    use crate::models::scorer::{Scorer, Scratch};
    use crate::models::{reasons::Reasons, synthetic};

    /// A made-up forest of four features with the manifest and scores of an evaluation.
    pub fn evaluated() -> (Compiled, Manifest, Vec<f64>, Vec<bool>) {
        let compiled = synthetic::forest(5, 10, 4, 4);
        let rows = synthetic::rows(6, 300, 4);
        let mut scores = vec![0.0; 300];
        Scorer::new(&compiled).unwrap().score(&rows, &mut scores, &mut Scratch::default());
        let labels: Vec<bool> =
            scores.iter().zip(synthetic::rows(7, 300, 1)).map(|(score, luck)| *score > luck + 0.3).collect();
        let manifest = Manifest {
            kind: "forest".into(),
            feature_set: "set".into(),
            feature_names: ["amount", "age", "gap", "mcc"].map(String::from).to_vec(),
            training_data: "data".into(),
            training_rows: 1_000,
            training_frauds: 10,
            code_version: "0.1.0".into(),
            command: "caddis train".into(),
            parameters: [("trees".to_owned(), "10".to_owned())].into(),
            seed: 5,
            thresholds: Thresholds { review: 0.5, block: 0.9 },
            alert_budget: Some(100.0),
            operating_points: [(0.5, 0.95), (4.0, 0.8), (40.0, 0.5), (300.0, 0.0)]
                .map(|(alerts_a_day, threshold)| OperatingPoint {
                    alerts_a_day,
                    threshold,
                    precision: 0.75,
                    recall: 0.5,
                })
                .to_vec(),
            metrics: Metrics::of(&scores, &labels, 0.5),
            further: [("card_precision_at_100".to_owned(), 0.25)].into(),
            importance: Reasons::new(compiled.clone()).unwrap().importance(rows.chunks(4)),
            feature_histograms: (0..4).map(|slot| Histogram::of(rows.chunks(4).map(|row| row[slot]), 10)).collect(),
            score_histogram: Histogram::of(scores.iter().copied(), 20),
            parent: None,
            imported: None,
        };
        (compiled, manifest, scores, labels)
    }

    #[test]
    fn a_card_has_its_figures_and_plots_and_is_the_same_each_time() {
        let (_, manifest, scores, labels) = evaluated();
        let card = super::make("baseline", &manifest, &scores, &labels).unwrap();
        assert_eq!(card, super::make("baseline", &manifest, &scores, &labels).unwrap());
        assert_eq!(card.len(), 5);
        assert!(card[0].1.contains("| average precision |") && card[0].1.contains("caddis train"));
        let budgets: Vec<&str> = card[0].1.lines().filter(|line| line.ends_with("| 0.7500 | 0.5000 |")).collect();
        assert_eq!(budgets.len(), 8, "1 to 200 of 300: {budgets:?}");
        assert_eq!(budgets[2], "| 5 | 4.0 | 0.800000 | 0.7500 | 0.5000 |");
        for (name, svg) in &card[1..] {
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
            assert!(card[0].1.contains(name.as_str()) && !svg.contains("NaN"));
        }
    }
}
