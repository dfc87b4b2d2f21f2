//! What must hold once everything has come to rest, whatever happened on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use caddis::alerts::{AlertFilter, alert_id};
use caddis::engine::{Decision, Fate};
use caddis::pipeline::entry::{self, Section, SectionKind};
use caddis::pipeline::label::Label;
use caddis::pipeline::ports::{NoQuarantine, Quarantine, Records};
use caddis::pipeline::processor::{Intake, Outcome};
use caddis::pipeline::recent::RecentDecisions;
use caddis::pipeline::recovery::{Recovered, Recovery, Reread};
use caddis::pipeline::service::{RecordReply, Shared};
use caddis::pipeline::status::Status;
use caddis::store::journal::{Journal, JournalError};
use caddis::store::quarantine::refused_in;

use super::world::{Ack, FILE, LABELS, World, id_of, lock, processor};

/// One record as the journal has it.
struct Entered {
    arrival: i64,
    partition: u32,
    offset: u64,
    record: Vec<u8>,
    /// None for a label.
    decision: Option<Decision>,
}

fn entries(world: &World) -> Result<Vec<Vec<u8>>, String> {
    let journal = Journal::on(world.disk.folder("journal/"), &*world.disk.folder(""), world.limits);
    let journal = journal.map_err(|error| format!("cannot be opened at the end: {error}"))?;
    let mut all = Vec::new();
    journal
        .replay(0, |_, payload| {
            all.push(payload.to_vec());
            Ok::<_, JournalError>(())
        })
        .map_err(|error| format!("cannot be read at the end: {error}"))?;
    Ok(all)
}

fn entered(world: &World, entries: &[Vec<u8>]) -> Result<Vec<Entered>, String> {
    let mut all = Vec::new();
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for payload in entries {
        let (head, sections) = entry::read(payload).map_err(|error| error.to_string())?;
        for Section { kind, partition, first_offset, decisions, records, count, .. } in sections {
            let expected = next.entry(partition).or_default();
            if first_offset != *expected {
                return Err(format!("partition {partition} goes on at {first_offset} instead of {expected}"));
            }
            *expected += count;
            for at in 0..count {
                let index = usize::try_from(at).expect("small");
                let offset = first_offset + at;
                let record = match &records {
                    Some(records) => records[index].clone(),
                    None => world.file[usize::try_from(offset).expect("small")].clone(),
                };
                let decision = (kind == SectionKind::Transactions).then(|| decisions[index]);
                all.push(Entered { arrival: head.arrival, partition, offset, record, decision });
            }
        }
    }
    if next.get(&FILE).copied().unwrap_or_default() != world.file.len() as u64 {
        return Err("not all of the file was taken".into());
    }
    Ok(all)
}

fn same(a: &Decision, b: &Decision) -> bool {
    a.fate == b.fate && a.verdict == b.verdict && a.rules == b.rules && a.score.to_bits() == b.score.to_bits()
}

/// An undisturbed run over the same order, on one thread and record by record, decides the same.
fn as_undisturbed(all: &[Entered]) -> Result<(), String> {
    let mut undisturbed = processor(1);
    for Entered { arrival, partition, offset, record, decision } in all {
        let Some(decision) = decision else {
            let label = Label::parse(record).map_err(|error| error.to_string())?;
            undisturbed.apply_labels(&[label]);
            continue;
        };
        let mut records = Records { partition: *partition, first_offset: *offset, ..Records::default() };
        records.push(record);
        undisturbed.decide(&[Intake { records, keep: true }], *arrival);
        let step = undisturbed.step(0);
        let found = match step.outcomes {
            [Outcome::Row(_)] => step.batch.decisions[0],
            _ => Decision::none(Fate::Refused),
        };
        if !same(&found, decision) {
            return Err(format!("{partition}/{offset}: undisturbed {found:?}, in the journal {decision:?}"));
        }
    }
    Ok(())
}

/// Every id that was sent is decided once.
fn decided_once(world: &World, all: &[Entered]) -> Result<(), String> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut alive = BTreeSet::new();
    for Entered { record, decision, .. } in all {
        let Some(decision) = decision else { continue };
        let Some(id) = id_of(record) else { continue };
        match decision.fate {
            Fate::Decided | Fate::Late => *counts.entry(id).or_default() += 1,
            // The same id may come once as a payment of the future and once as one of the present.
            Fate::Future => {
                alive.insert(id);
            }
            Fate::Duplicate { .. } | Fate::Refused => {}
        }
    }
    let requests = world.requests.iter().filter(|request| !request.labels).flat_map(|request| &request.records);
    for id in requests.chain(&*world.file).filter_map(|record| id_of(record)) {
        let count = counts.get(&id).copied().unwrap_or_default();
        if count > 1 || count == 0 && !alive.contains(&id) && !world.lost_acks {
            return Err(format!("{id} was decided {count} times"));
        }
    }
    Ok(())
}

/// What was acknowledged is there, as it was told.
fn acknowledged(world: &World, all: &[Entered]) -> Result<(), String> {
    let at: BTreeMap<(u32, u64), &Entered> =
        all.iter().map(|entered| ((entered.partition, entered.offset), entered)).collect();
    let labels: BTreeSet<&[u8]> =
        all.iter().filter(|entered| entered.partition == LABELS).map(|entered| entered.record.as_slice()).collect();
    for ack in &world.acked {
        let (number, replies) = match ack {
            Ack::Labels(number) => {
                if !labels.contains(world.requests[*number].records[0].as_slice()) {
                    return Err(format!("label {number} was acknowledged and is lost"));
                }
                continue;
            }
            Ack::Records(number, replies) => (number, replies),
        };
        for (record, reply) in world.requests[*number].records.iter().zip(replies) {
            let (position, told) = match reply {
                RecordReply::Refused { position, .. } => (position, None),
                RecordReply::Decided(answer) => (&answer.recent.position, Some(answer.recent.decision)),
            };
            let Some(entered) = at.get(&(position.partition, position.offset)) else {
                return Err(format!("{position:?} was acknowledged and is lost"));
            };
            let decision = entered.decision.ok_or("a label was told as a record")?;
            let right = match told {
                None => matches!(decision.fate, Fate::Refused | Fate::Future),
                // A duplicate is told the first decision, if that is still known.
                Some(told) if matches!(told.fate, Fate::Duplicate { .. }) => id_of(&entered.record) == id_of(record),
                Some(told) => same(&told, &decision) && entered.record == *record,
            };
            if !right {
                return Err(format!("{position:?} was told {told:?}, is {decision:?}"));
            }
        }
    }
    Ok(())
}

/// Every refused record is, or was, in the quarantine: those of the file, and those whose sender was told. One who
/// was not told, since the power went, sends it again.
fn quarantined(world: &World, all: &[Entered]) -> Result<(), String> {
    let listed = refused_in(&*world.disk.folder("quarantine/")).map_err(|error| error.to_string())?;
    let dealt = lock(&world.dealt);
    let sent: BTreeSet<&[u8]> =
        world.requests.iter().flat_map(|request| &request.records).chain(&*world.file).map(Vec::as_slice).collect();
    for entered in all.iter().filter(|entered| entered.partition == FILE) {
        if !entered.decision.is_some_and(|decision| matches!(decision.fate, Fate::Refused | Fate::Future)) {
            continue;
        }
        let of = |refused: &&caddis::store::quarantine::Refused| {
            (refused.partition, refused.offset) == (entered.partition, entered.offset)
                && (entered.record.is_empty() || refused.bytes() == entered.record)
        };
        let Some(found) = listed.iter().find(of).or_else(|| dealt.iter().find(of)) else {
            return Err(format!("{}/{} was refused and is not in the quarantine", entered.partition, entered.offset));
        };
        if !sent.contains(found.bytes().as_slice()) {
            return Err(format!("the quarantine has what nobody sent: {found:?}"));
        }
    }
    for ack in &world.acked {
        let Ack::Records(number, replies) = ack else { continue };
        for (record, reply) in world.requests[*number].records.iter().zip(replies) {
            let RecordReply::Refused { position, .. } = reply else { continue };
            let of = |refused: &caddis::store::quarantine::Refused| {
                refused.offset == position.offset
                    && refused.partition == position.partition
                    && refused.bytes() == *record
            };
            if !listed.iter().any(of) && !dealt.iter().any(of) {
                return Err(format!("{position:?} was told to be refused and is not in the quarantine"));
            }
        }
    }
    Ok(())
}

struct FromFile<'a>(&'a World);

impl Reread for FromFile<'_> {
    fn reread(&mut self, partition: u32, offset: u64, count: u64) -> Result<Records, String> {
        let mut records = Records { partition, first_offset: offset, ..Records::default() };
        (offset..offset + count).for_each(|at| records.push(&self.0.file[usize::try_from(at).expect("small")]));
        Ok(records)
    }
}

/// Every alert was delivered, under one id and with one body, and no other was.
fn alerted(world: &World, entries: &[Vec<u8>]) -> Result<usize, String> {
    let mut processor = processor(1);
    let quarantine: Box<dyn Quarantine> = Box::new(NoQuarantine);
    let recent = RecentDecisions::new(0);
    let shared = Shared { recent, quarantine: Mutex::new(quarantine), status: Status::default() };
    let mut recovery = Recovery {
        processor: &mut processor,
        shared: &shared,
        reread: &mut FromFile(world),
        alerts_from: 0,
        refused_from: u64::MAX,
        snapshot: None,
        recovered: Recovered::default(),
    };
    for (sequence, payload) in entries.iter().enumerate() {
        recovery.entry(sequence as u64, payload).map_err(|error| error.to_string())?;
    }
    let expected: BTreeSet<String> = recovery.recovered.candidates.iter().map(alert_id).collect();
    let received: BTreeSet<String> = world.received.keys().cloned().collect();
    if let Some(lost) = expected.difference(&received).next() {
        return Err(format!("{lost} was never delivered"));
    }
    if let Some(wrong) = received.difference(&expected).next() {
        return Err(format!("{wrong} tells of a decision that is not in the journal"));
    }
    for (id, bodies) in &world.received {
        if bodies.iter().any(|body| *body != bodies[0]) {
            return Err(format!("{id} was delivered with two bodies"));
        }
    }
    let stored = world.outbox.alerts(&AlertFilter { limit: u32::MAX, ..AlertFilter::default() });
    let stored = stored.expect("memory");
    if stored.len() > expected.len() || stored.iter().any(|stored| !expected.contains(&stored.alert.id)) {
        return Err("the outbox has an alert twice, or one of no decision".into());
    }
    Ok(expected.len())
}

/// Checks everything; says how many alerts there were.
pub fn check(world: &World) -> Result<usize, String> {
    let payloads = entries(world)?;
    let all = entered(world, &payloads)?;
    as_undisturbed(&all)?;
    decided_once(world, &all)?;
    acknowledged(world, &all)?;
    quarantined(world, &all)?;
    if world.disk.length("quarantine/refused.ndjson") as u64 > world.quarantine_bytes {
        return Err("the quarantine has outgrown its limit".into());
    }
    alerted(world, &payloads)
}
