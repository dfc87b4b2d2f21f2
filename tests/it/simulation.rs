//! The pipeline under everything that can happen to it, by seeds: killed and powerless at any operation, disks
//! that are full, tear writes and fail to flush, clients that send again, a subscriber that fails, records that
//! are garbage, late, of the future or twice. What must hold afterwards is in `simulation/check.rs`.
//!
//! `just sim 5000` takes as many seeds (`CADDIS_SIM_SEEDS`), from `CADDIS_SIM_FIRST` on.

mod check;
mod disk;
mod world;

use check::check;
use disk::Leaves;
use world::World;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// From 0 up to `below`, which is not included.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// From 0 up to `most`, which is included.
    pub fn upto(&mut self, most: usize) -> usize {
        usize::try_from(self.below(most as u64 + 1)).expect("small")
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        (self.next() >> 11) as f64 / 9_007_199_254_740_992.0 < probability
    }
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Power(Leaves),
}

/// What is to be simulated.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub records: usize,
    /// Whether faults come at random.
    pub faults: bool,
    /// One fault, at this operation of the disk.
    pub stop_at: Option<(u64, Fault)>,
    /// Another after the first.
    pub and_at: Option<(u64, Fault)>,
    /// The flush that is left out.
    pub forget_flush: Option<u64>,
    /// Whether a file is read as well.
    pub file: bool,
}

impl Plan {
    fn quiet(records: usize) -> Self {
        Self { seed: 5, records, faults: false, stop_at: None, and_at: None, forget_flush: None, file: true }
    }
}

/// What a run came to.
struct Outcome {
    alerts: usize,
    crashes: u32,
    operations: u64,
    /// Flushes that had something to do: number, operation, what.
    flushes: Vec<(u64, u64, String)>,
    /// Hash of all that is on the disk and was delivered.
    print: String,
}

fn run(plan: Plan) -> Result<Outcome, String> {
    let mut world = World::new(plan);
    world.run()?;
    let operations = world.disk.operations();
    let alerts = check(&world)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&world.disk.image());
    hasher.update(format!("{:?} {:?}", world.received, world.acked).as_bytes());
    Ok(Outcome {
        alerts,
        crashes: world.crashes,
        operations,
        flushes: world.disk.needed(),
        print: hasher.finalize().to_hex().to_string(),
    })
}

#[expect(clippy::disallowed_methods, reason = "how long to simulate is asked for from outside")]
pub fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_nothing_is_lost_or_doubled() {
    let first = asked("CADDIS_SIM_FIRST").unwrap_or(1);
    let seeds = asked("CADDIS_SIM_SEEDS").unwrap_or(20);
    let (mut alerts, mut crashes) = (0, 0);
    for seed in first..first + seeds {
        let records = 40 + usize::try_from(seed % 4).expect("small") * 30;
        let plan = Plan { seed, records, faults: true, stop_at: None, and_at: None, forget_flush: None, file: true };
        let outcome = run(plan).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        alerts += outcome.alerts;
        crashes += outcome.crashes;
    }
    println!("{seeds} seeds, {crashes} crashes, {alerts} alerts");
    assert!(alerts as u64 > seeds && u64::from(crashes) > seeds, "{crashes} crashes, {alerts} alerts");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in 101..104 {
        let plan =
            Plan { seed, records: 80, faults: true, stop_at: None, and_at: None, forget_flush: None, file: true };
        let [one, two] = [run(plan), run(plan)].map(|outcome| outcome.expect("a good run").print);
        assert_eq!(one, two, "seed {seed}");
    }
}

/// Every commit point, one after another.
#[test]
fn it_may_die_at_any_operation() {
    let plan = Plan::quiet(24);
    let quiet = run(plan).expect("nothing happens");
    assert!(quiet.crashes == 0 && quiet.alerts > 2, "{} alerts", quiet.alerts);
    for operation in 1..=quiet.operations {
        for fault in [Fault::Kill, Fault::Power(Leaves::Nothing), Fault::Power(Leaves::Sectors)] {
            let plan = Plan { stop_at: Some((operation, fault)), ..plan };
            if let Err(why) = run(plan) {
                panic!("{fault:?} at operation {operation}: {why}");
            }
        }
    }
}

/// The simulation would notice if any flush were left out: each guards against some power cut.
#[test]
fn every_flush_is_needed() {
    // Seeds with refused records and several segments.
    for seed in [11, 13, 24] {
        // All comes from clients, so that somebody is told of every batch.
        let plan = Plan { seed, file: false, ..Plan::quiet(24) };
        let quiet = run(plan).expect("nothing happens");
        // The watermark, alone in its folder here, guards against damage: `damage.rs` has what it is needed for.
        let guard = |what: &str| what == "watermark" || what == " (names)";
        let flushes: Vec<_> = quiet.flushes.iter().filter(|(.., what)| !guard(what)).collect();
        assert!(flushes.len() > 10, "{flushes:?}");
        for (number, operation, what) in flushes {
            let noticed = (operation + 1..=quiet.operations).any(|at| {
                let stop_at = Some((at, Fault::Power(Leaves::Nothing)));
                run(Plan { stop_at, forget_flush: Some(*number), ..plan }).is_err()
            });
            assert!(noticed, "seed {seed}: flush {number} of {what} makes no difference");
        }
    }
}

/// What a killed process wrote and did not flush is flushed before it is acted on. Most often the same requests
/// come again in the same order and hide it; some time they do not.
#[test]
fn the_flush_of_recovery_is_needed() {
    let noticed = (11..60).any(|seed| {
        let plan = Plan { seed, ..Plan::quiet(24) };
        let operations = run(plan).expect("nothing happens").operations;
        (operations / 3..operations).step_by(3).any(|operation| {
            let plan = Plan { stop_at: Some((operation, Fault::Kill)), ..plan };
            let killed = run(plan).expect("a kill does no harm");
            let recovers = |(_, at, what): &&(u64, u64, String)| {
                (operation..operation + 6).contains(at) && what.starts_with("journal/0")
            };
            let Some((number, at, _)) = killed.flushes.iter().find(recovers) else { return false };
            (at + 1..at + 30).any(|at| {
                let and_at = Some((at, Fault::Power(Leaves::Nothing)));
                run(Plan { and_at, forget_flush: Some(*number), ..plan }).is_err()
            })
        })
    });
    assert!(noticed, "the flush of recovery makes no difference");
}
