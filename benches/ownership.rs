//! Who may own entity state: a read-modify-write on a million skewed keys, one thread, through one large map,
//! many sub-maps over an arena, and a `DashMap`. `cargo bench --bench ownership`

#![expect(clippy::indexing_slicing, clippy::type_complexity, reason = "a bench: a wrong index is a failure")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dashmap::DashMap;
use hashbrown::{HashMap, HashTable};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

const KEYS: u64 = 1_000_000;
/// So many that what one round reads is out of the caches by the next.
const STEPS: usize = 2_000_000;

/// As wide as an entity's record.
type Record = [u64; 8];

/// Keys as hashes: half of the steps go to a hundredth of the keys.
fn keys() -> Vec<u64> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut next = move |below: u64| ((u128::from(random.next_u64()) * u128::from(below)) >> 64) as u64;
    (0..STEPS)
        .map(|_| if next(2) == 0 { next(KEYS / 100) } else { next(KEYS) })
        .map(|key| key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .collect()
}

fn all() -> impl Iterator<Item = u64> {
    (0..KEYS).map(|key| key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

struct SubMaps(Vec<(HashTable<u32>, Vec<(u64, Record)>)>);

/// By bits that the tables use neither for their buckets nor for their tags.
fn map_of(key: u64) -> usize {
    usize::from(key.to_be_bytes()[2])
}

impl SubMaps {
    fn new() -> Self {
        let mut maps: Vec<(HashTable<u32>, Vec<(u64, Record)>)> =
            (0..256).map(|_| (HashTable::new(), Vec::new())).collect();
        for key in all() {
            let (index, arena) = &mut maps[map_of(key)];
            arena.push((key, [0; 8]));
            let at = u32::try_from(arena.len() - 1).expect("few");
            index.insert_unique(key, at, |at| arena[*at as usize].0);
        }
        Self(maps)
    }

    fn place(&self, key: u64) -> Option<(usize, u32)> {
        let map = map_of(key);
        let (index, arena) = &self.0[map];
        Some((map, *index.find(key, |at| arena[*at as usize].0 == key)?))
    }
}

fn ownership(criterion: &mut Criterion) {
    let keys = keys();
    let mut group = criterion.benchmark_group("ownership");
    group.throughput(Throughput::Elements(STEPS as u64));

    let mut one: HashMap<u64, Record, foldhash::fast::FixedState> = all().map(|key| (key, [0; 8])).collect();
    group.bench_function("one map", |bencher| {
        bencher.iter(|| keys.iter().for_each(|key| one.get_mut(key).expect("known")[3] += 1));
    });
    drop(one);

    let shared: DashMap<u64, Record, foldhash::fast::FixedState> = all().map(|key| (key, [0; 8])).collect();
    group.bench_function("dashmap", |bencher| {
        bencher.iter(|| keys.iter().for_each(|key| shared.get_mut(key).expect("known")[3] += 1));
    });
    drop(shared);

    let mut owned = SubMaps::new();
    group.bench_function("sub-maps, looked up 32 ahead", |bencher| {
        bencher.iter(|| {
            for keys in keys.chunks(32) {
                let mut places = [(0, 0); 32];
                for (place, key) in places.iter_mut().zip(keys) {
                    *place = owned.place(*key).expect("known");
                }
                let touched =
                    places.iter().take(keys.len()).fold(0, |all, (map, at)| all ^ owned.0[*map].1[*at as usize].1[0]);
                black_box(touched);
                for (map, at) in places.iter().take(keys.len()) {
                    owned.0[*map].1[*at as usize].1[3] += 1;
                }
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_secs(2));
    targets = ownership
}
criterion_main!(benches);
