//! From NDJSON bytes to decisions in the journal: 100 trees, the shipped policy, the shipped features; and
//! the stages before it. Windows are full when measuring starts. `cargo bench --bench pipeline`

mod support;

use std::time::Instant;

use caddis::pipeline::ports::{Decode, Log, NoLog};
use caddis::store::journal::{Journal, JournalLimits};
use caddis::transaction::{Schema, TransactionBatch};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use support::{decide, decoder, payments, processor, records, set, shipped};

/// 5,000 accounts over 30 days; the last 6 are measured.
const ACCOUNTS: u32 = 5_000;
const DAYS: u32 = 30;

#[expect(clippy::disallowed_methods, reason = "criterion's own clock for work with a warm-up of its own")]
fn stages(criterion: &mut Criterion) {
    let blocks = payments(ACCOUNTS, DAYS);
    let (history, measured) = blocks.split_at(blocks.len() * 4 / 5);
    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(records(measured))).sampling_mode(SamplingMode::Flat);

    group.bench_function("decode", |bencher| {
        let mut decoder = decoder();
        let mut batch = TransactionBatch::new(std::sync::Arc::new(Schema::default()));
        bencher.iter(|| {
            for block in measured {
                batch.clear();
                for index in 0..block.records.len() {
                    decoder.decode(block.records.record(index), &mut batch).expect("a payment");
                }
            }
            batch.len()
        });
    });

    let plain = set(include_str!("plain/features.toml"));
    for (name, set, decides, threads) in [
        ("features/plain", &plain, false, 1),
        ("features/shipped", &shipped(), false, 1),
        ("decisions/1", &shipped(), true, 1),
        ("decisions/2", &shipped(), true, 2),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut total = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    let folder = tempfile::tempdir().expect("a folder");
                    let log: Box<dyn Log> = if decides {
                        Box::new(Journal::open(folder.path(), JournalLimits::default()).expect("a journal"))
                    } else {
                        Box::new(NoLog::default())
                    };
                    let mut processor = processor(set, decides, threads, log);
                    decide(&mut processor, history);
                    let started = Instant::now();
                    decide(&mut processor, measured);
                    total += started.elapsed();
                }
                total
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(std::time::Duration::from_millis(100)).measurement_time(std::time::Duration::from_secs(2));
    targets = stages
}
criterion_main!(benches);
