//! What a score costs: by block size, logistic and forest. `cargo bench --bench score`

use caddis::models::compiled::{Calibration, Compiled, Form, Term};
use caddis::models::reasons::Reasons;
use caddis::models::scorer::{Scorer, Scratch};
use caddis::models::synthetic::{forest, rows};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const WIDTH: u32 = 50;

fn logistic() -> Compiled {
    let terms = (0..WIDTH).map(|slot| Term { slot, mean: 0.5, deviation: 0.3, weight: 0.1, missing: 0.0 }).collect();
    let form = Form::Logistic { intercept: -2.0, terms };
    Compiled { width: WIDTH, imputed: vec![0.5; WIDTH as usize], form, calibration: Calibration::None }
}

fn score(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("score");
    let models = [
        ("logistic", logistic()),
        ("forest_100x6", forest(1, 100, 6, WIDTH)),
        ("forest_100x7", forest(1, 100, 7, WIDTH)),
        ("forest_100x8", forest(1, 100, 8, WIDTH)),
    ];
    for (name, model) in models {
        let scorer = Scorer::new(&model).expect("a sound model");
        for block in [1_usize, 64, 1024] {
            // Many blocks, so that branch predictors cannot learn the rows by heart.
            let rows = rows(2, 16_384, WIDTH as usize);
            let (mut out, mut scratch) = (vec![0.0; block], Scratch::default());
            let mut blocks = rows.chunks_exact(block * WIDTH as usize).cycle();
            group.throughput(Throughput::Elements(block as u64));
            group.bench_function(BenchmarkId::new(name, block), |bencher| {
                bencher.iter(|| {
                    scorer.score(blocks.next().expect("endless"), &mut out, &mut scratch);
                    black_box(&out);
                });
            });
        }
    }
    group.finish();
    let reasons = Reasons::new(forest(1, 100, 7, WIDTH)).expect("a sound model");
    let row = rows(3, 1, WIDTH as usize);
    criterion.bench_function("reasons/forest_100x7", |bencher| bencher.iter(|| reasons.top(black_box(&row), 5)));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(200)).measurement_time(std::time::Duration::from_millis(800));
    targets = score
}
criterion_main!(benches);
