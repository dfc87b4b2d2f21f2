//! The pipeline with everything around it, taken a step at a time on one thread: clients that send again until
//! they are answered, a file, an operator, a flaky subscriber, a clock, a disk.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use caddis::alerts::{Alert, Filter, Outbox, Outcome, Subscriber, alert_id};
use caddis::engine::{AdmissionSettings, Brain, Engine, EngineSettings};
use caddis::features::FeatureSet;
use caddis::pipeline::ports::{Log, NoLog, Quarantine, Records};
use caddis::pipeline::processor::{Intake, Processor};
use caddis::pipeline::recent::RecentDecisions;
use caddis::pipeline::recovery::{Recovered, Recovery, RecoveryError, Reread};
use caddis::pipeline::service::{
    Candidate, Committed, Durability, Flusher, Inbox, Loop, Message, Notify, RecordReply, Shared, Turn,
};
use caddis::pipeline::status::Status;
use caddis::policy::{Policy, Thresholds};
use caddis::simulate::{Scenario, write};
use caddis::sources::decode::{JsonDecoder, Mapping, Rates};
use caddis::store::journal::{Journal, JournalError, JournalLimits};
use caddis::store::quarantine::{QuarantineFile, Refused, refused_in};
use caddis::transaction::{Currency, Schema};

use super::disk::{Crash, Disk, Leaves};
use super::{Fault, Plan, Random};

pub const HTTP: u32 = 0;
pub const LABELS: u32 = 1;
pub const FILE: u32 = 2;
/// When the simulated day begins; the payments are older.
const NOON: i64 = 1_768_000_000_000;

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(NOON) };
}

fn now_ms() -> i64 {
    NOW.get()
}

/// What a client sends at once, until it is answered.
#[derive(Debug, Clone)]
pub struct Request {
    pub labels: bool,
    pub records: Vec<Vec<u8>>,
}

/// An answer that reached its client.
#[derive(Debug, Clone)]
pub enum Ack {
    Records(usize, Vec<RecordReply>),
    Labels(usize),
}

type Queue = Arc<Mutex<VecDeque<(Vec<Alert>, u64)>>>;

pub struct World {
    pub plan: Plan,
    pub random: Random,
    pub disk: Disk,
    pub requests: Vec<Request>,
    /// The requests of each client, and whether the first of them is under way.
    clients: Vec<(VecDeque<usize>, bool)>,
    pub file: Arc<Vec<Vec<u8>>>,
    fed: usize,
    pub outbox: Arc<Outbox>,
    acks: Arc<Mutex<Vec<Ack>>>,
    pub acked: Vec<Ack>,
    pub lost_acks: bool,
    /// Bodies by id, as the subscriber received them.
    pub received: BTreeMap<String, Vec<String>>,
    /// Refused records that the operator has dealt with.
    pub dealt: Arc<Mutex<Vec<Refused>>>,
    pub crashes: u32,
    process: Option<Process>,
    armed: Option<Fault>,
    pub limits: JournalLimits,
    pub quarantine_bytes: u64,
    pub durability: Durability,
    threads: usize,
}

struct Process {
    engine: Loop,
    inbox: Inbox,
    flusher: Flusher,
    queue: Queue,
    /// Turns of the engine since the flusher's last.
    ahead: u32,
}

/// Puts alerts where the projector finds them.
struct ToQueue(Queue);

impl Notify for ToQueue {
    fn notify(&mut self, candidates: Vec<Candidate>, cursor: u64) {
        lock(&self.0).push_back((candidates.iter().map(alert).collect(), cursor));
    }
}

struct RereadLines(Arc<Vec<Vec<u8>>>);

impl Reread for RereadLines {
    fn reread(&mut self, partition: u32, offset: u64, count: u64) -> Result<Records, String> {
        let from = usize::try_from(offset).expect("small");
        let lines = self.0.get(from..from + usize::try_from(count).expect("small")).ok_or("it is shorter")?;
        let mut records = Records { partition, first_offset: offset, ..Records::default() };
        lines.iter().for_each(|line| records.push(line));
        Ok(records)
    }
}

#[derive(Debug)]
pub struct Refusal(pub String);

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        Self(error.to_string())
    }
}

impl From<RecoveryError> for Refusal {
    fn from(error: RecoveryError) -> Self {
        Self(error.to_string())
    }
}

pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn alert(candidate: &Candidate) -> Alert {
    let decision = candidate.decision;
    Alert {
        id: alert_id(candidate),
        transaction_id: candidate.transaction_id.clone(),
        account: String::new(),
        event_time: candidate.event_time,
        verdict: decision.verdict.name().to_owned(),
        score: decision.score,
        body: format!("{:?} {decision:?} {:?}", candidate.position, candidate.basis.features),
    }
}

fn outbox() -> Arc<Outbox> {
    let outbox = Outbox::in_memory().expect("memory takes it");
    let secret = crate::support::SECRET;
    let desk = Subscriber::new("desk", "http://127.0.0.1:1/", secret, Filter::default(), true);
    outbox.configure(&[desk.expect("a subscriber")]).expect("configures");
    Arc::new(outbox)
}

pub fn schema() -> Arc<Schema> {
    static SCHEMA: OnceLock<Arc<Schema>> = OnceLock::new();
    Arc::clone(SCHEMA.get_or_init(Arc::default))
}

pub fn processor(threads: usize) -> Processor {
    static BRAIN: OnceLock<Brain> = OnceLock::new();
    let brain = BRAIN.get_or_init(|| {
        let text = include_str!("../../../models/features.toml");
        let set = Arc::new(FeatureSet::parse(text, "features.toml", &schema()).expect("the shipped set"));
        let rules = "[[rules]]\nname = \"many\"\nwhen = \"account_count_24h > 3\"\nverdict = \"review\"\n\
                     [[rules]]\nname = \"dear\"\nwhen = \"amount > 90.0\"\nverdict = \"block\"\n";
        let policy = Policy::parse(rules, "policy.toml", &schema(), set.names(), 2).expect("a policy");
        Brain { features: set, model: None, policy: Arc::new(policy), thresholds: Thresholds::default() }
    });
    let settings = EngineSettings { threads, admission: AdmissionSettings::default(), key: *b"0123456789abcdef" };
    let mapping = Mapping::own(schema(), Rates::new(Currency::EUR));
    let engine = Engine::new(brain.clone(), settings);
    Processor::new(engine, &JsonDecoder::new(Arc::new(mapping)), schema(), Box::new(NoLog::default()), 7)
}

fn payments() -> &'static [Vec<u8>] {
    static PAYMENTS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    PAYMENTS.get_or_init(|| {
        let scenario = Scenario { accounts: 60, terminals: 40, days: 4, campaigns: 100.0, ..Scenario::default() };
        let mut bytes = Vec::new();
        write(&scenario, &mut bytes, None, |_| true).expect("memory takes it");
        bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    })
}

/// Some payments in disorder, with duplicates and what is no payment.
fn lines(random: &mut Random, count: usize) -> Vec<Vec<u8>> {
    let all = payments();
    let from = random.upto(all.len() - count);
    let mut lines = all[from..from + count].to_vec();
    for at in 1..count {
        match random.below(12) {
            0 => lines[at] = lines[random.upto(at - 1)].clone(),
            1 => lines.swap(at, at - 1),
            2 => lines[at].truncate(60),
            3 => {
                let text = String::from_utf8(lines[at].clone()).expect("text");
                lines[at] = text.replacen("\"2026-", "\"2036-", 1).into_bytes();
            }
            _ => {}
        }
    }
    lines
}

impl World {
    pub fn new(plan: Plan) -> Self {
        NOW.set(NOON);
        let mut random = Random::new(plan.seed);
        let disk = Disk::new(random.fork());
        let mut made = lines(&mut random, plan.records);
        let file = Arc::new(made.split_off(if plan.file { plan.records / 2 } else { plan.records }));
        let mut requests = Vec::new();
        let mut clients = vec![(VecDeque::new(), false); 1 + random.upto(2)];
        while !made.is_empty() {
            let records = made.drain(..made.len().min(1 + random.upto(4))).collect::<Vec<_>>();
            let labels = random.chance(0.15).then(|| random.upto(records.len() - 1));
            let mut send = |request: Request, random: &mut Random| {
                let client = random.upto(clients.len() - 1);
                clients[client].0.push_back(requests.len());
                requests.push(request);
            };
            let label = labels.and_then(|at| id_of(&records[at]));
            send(Request { labels: false, records }, &mut random);
            if let Some(id) = label {
                let label = format!("{{\"transaction_id\":\"{id}\",\"fraud\":true}}").into_bytes();
                send(Request { labels: true, records: vec![label] }, &mut random);
            }
        }
        let durability = match random.below(4) {
            0 if plan.faults => Durability::Interval(Duration::ZERO),
            1 if plan.faults => Durability::Os,
            _ => Durability::Flush,
        };
        let limits = JournalLimits {
            segment_bytes: if plan.faults { 200 + random.below(4_000) } else { 1_200 },
            max_bytes: u64::MAX,
        };
        disk.forget_flush(plan.forget_flush);
        Self {
            disk,
            requests,
            clients,
            file,
            fed: 0,
            outbox: outbox(),
            acks: Arc::default(),
            acked: Vec::new(),
            lost_acks: false,
            received: BTreeMap::new(),
            dealt: Arc::default(),
            crashes: 0,
            process: None,
            armed: None,
            limits,
            quarantine_bytes: if plan.faults { 2_500 + random.below(10_000) } else { 1 << 20 },
            durability,
            threads: 1 + random.upto(2),
            random,
            plan,
        }
    }

    /// Takes steps until everything is sent, answered, durable and delivered.
    pub fn run(&mut self) -> Result<(), String> {
        if let Some((operation, fault)) = self.plan.stop_at {
            self.disk.crash_at(Some(operation));
            self.armed = Some(fault);
        }
        for step in 0.. {
            if step > 40 * self.plan.records as u64 + 2_000 {
                return Err("it does not come to an end".into());
            }
            let quiet = step > 12 * self.plan.records as u64;
            if quiet || !self.plan.faults {
                self.disk.set_full(false);
                self.disk.fail_flush(false);
            } else {
                self.mischief();
            }
            let done = self.guarded(World::step)?.unwrap_or(false);
            if done && self.guarded(World::stop)?.is_some() {
                break;
            }
        }
        self.disk.crash_at(None);
        self.disk.set_full(false);
        self.disk.fail_flush(false);
        Ok(())
    }

    /// Does something in which the process, or the power, may die.
    fn guarded<T>(&mut self, work: fn(&mut Self) -> Result<T, String>) -> Result<Option<T>, String> {
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(done) => done.map(Some),
            Err(payload) if payload.is::<Crash>() => {
                let fault = self.armed.take().unwrap_or(Fault::Kill);
                self.dies(fault);
                Ok(None)
            }
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }

    fn dies(&mut self, fault: Fault) {
        self.crashes += 1;
        self.process = None;
        if let Some((operation, fault)) = self.plan.and_at.take() {
            self.disk.crash_at(Some(operation));
            self.armed = Some(fault);
        }
        // What was sent before the end reaches its clients.
        self.hear();
        for (_, under_way) in &mut self.clients {
            *under_way = false;
        }
        if let Fault::Power(leaves) = fault {
            self.disk.lose_power(leaves);
            if self.durability != Durability::Flush {
                // That much was agreed to.
                self.acked.clear();
                self.lost_acks = true;
            }
            if self.plan.faults && self.random.chance(0.3) {
                // The outbox's last commits may be lost as well, at worst all.
                self.outbox = outbox();
            }
        }
    }

    fn hear(&mut self) {
        self.acked.append(&mut lock(&self.acks));
    }

    fn mischief(&mut self) {
        match self.random.below(60) {
            0 => self.disk.set_full(true),
            1 => self.disk.set_full(false),
            2 if self.random.chance(0.3) => self.disk.fail_flush(true),
            3 if self.armed.is_none() => {
                let leaves = [Leaves::Nothing, Leaves::Beginning, Leaves::Sectors][self.random.upto(2)];
                self.armed = Some(if self.random.chance(0.5) { Fault::Kill } else { Fault::Power(leaves) });
                self.disk.crash_at(Some(self.disk.operations() + 1 + self.random.below(12)));
            }
            _ => {}
        }
    }

    /// One thing that happens; whether nothing is left to be done.
    fn step(&mut self) -> Result<bool, String> {
        NOW.set(NOW.get() + i64::try_from(self.random.below(500)).expect("small"));
        if self.process.is_none() {
            self.process = self.start()?;
            return Ok(false);
        }
        match self.random.below(9) {
            0 | 1 => self.send(),
            2 => self.feed(),
            3 | 4 => self.decide(),
            5 | 6 => self.flush(),
            7 => self.project(),
            _ => self.deliver(),
        }
        self.hear();
        Ok(self.random.chance(0.2) && self.settled())
    }

    fn settled(&mut self) -> bool {
        let sent = self.clients.iter().all(|(requests, _)| requests.is_empty()) && self.fed == self.file.len();
        if !sent || self.process.is_none() {
            return false;
        }
        self.decide();
        self.flush();
        while self.process.as_ref().is_some_and(|process| !lock(&process.queue).is_empty()) {
            self.project();
        }
        self.deliver();
        let state = self.outbox.subscribers().expect("memory");
        if state[0].dead > 0 {
            self.outbox.resend(None, None, false).expect("memory");
        }
        // A retry may be a day away.
        NOW.set(NOW.get() + 90_000_000);
        self.process.is_some() && state[0].waiting == 0 && state[0].dead == 0 && self.answered()
    }

    fn answered(&mut self) -> bool {
        self.hear();
        self.clients.iter().all(|(requests, under_way)| requests.is_empty() && !under_way)
    }

    fn send(&mut self) {
        let at = self.random.upto(self.clients.len() - 1);
        let answered = |acks: &[Ack], request: usize| {
            acks.iter().any(|ack| matches!(ack, Ack::Records(of, _) | Ack::Labels(of) if *of == request))
        };
        let impatient = self.plan.faults && self.random.chance(0.05);
        let (queue, under_way) = &mut self.clients[at];
        while let Some(request) = queue.front().copied() {
            if !answered(&self.acked, request) {
                break;
            }
            queue.pop_front();
            *under_way = false;
        }
        let (Some(number), Some(process)) = (queue.front().copied(), &self.process) else { return };
        if *under_way && !impatient {
            return;
        }
        let request = &self.requests[number];
        let partition = if request.labels { LABELS } else { HTTP };
        let mut records = Records { partition, ..Records::default() };
        request.records.iter().for_each(|record| records.push(record));
        let acks = Arc::clone(&self.acks);
        let message = if request.labels {
            let reply = Box::new(move |_| lock(&acks).push(Ack::Labels(number)));
            Message::Labels { records, reply: Some(reply) }
        } else {
            let reply = Box::new(move |replies| lock(&acks).push(Ack::Records(number, replies)));
            Message::Records { intake: Intake { records, keep: true }, assign: true, reply: Some(reply) }
        };
        *under_way |= process.inbox.try_send(message).is_ok();
    }

    fn feed(&mut self) {
        let Some(process) = &self.process else { return };
        let count = (1 + self.random.upto(7)).min(self.file.len() - self.fed);
        if count == 0 {
            return;
        }
        let (first_offset, end) = (self.fed as u64, self.fed + count);
        let mut records = Records { partition: FILE, first_offset, cursor: end as u64, ..Records::default() };
        self.file[self.fed..end].iter().for_each(|line| records.push(line));
        let message = Message::Records { intake: Intake { records, keep: false }, assign: false, reply: None };
        if process.inbox.try_send(message).is_ok() {
            self.fed = end;
        }
    }

    fn decide(&mut self) {
        let Some(process) = &mut self.process else { return };
        if process.ahead >= 3 {
            return self.flush();
        }
        let Ok(message) = process.engine.inbox.try_recv() else { return };
        process.ahead += 1;
        if process.engine.turn(message) == Turn::Over {
            self.dies(Fault::Kill);
        }
    }

    fn flush(&mut self) {
        let Some(process) = &mut self.process else { return };
        process.ahead = 0;
        if let Ok(committed) = process.flusher.inbox.try_recv()
            && process.flusher.turn(committed).is_err()
        {
            self.dies(Fault::Kill);
        }
    }

    fn project(&mut self) {
        let Some(process) = &self.process else { return };
        let next = lock(&process.queue).front().cloned();
        let Some((alerts, cursor)) = next else { return };
        self.disk.passes();
        self.outbox.put(alerts, cursor, now_ms()).expect("memory takes it");
        self.disk.passes();
        lock(&process.queue).pop_front();
    }

    fn deliver(&mut self) {
        if self.process.is_none() {
            return;
        }
        let (due, _) = self.outbox.due("desk", now_ms(), 8).expect("memory");
        for due in due {
            let outcome = if self.random.chance(0.3) {
                Outcome::Failed { error: "503".into(), retry_after_ms: None }
            } else {
                self.received.entry(due.alert_id.clone()).or_default().push(due.body.clone());
                Outcome::Delivered
            };
            // Dying here makes it be delivered again.
            self.disk.passes();
            self.outbox.record("desk", &[(due, outcome)], now_ms()).expect("memory");
        }
    }

    /// Starts the process; `None` where the disk does not let it, as may be.
    fn start(&mut self) -> Result<Option<Process>, String> {
        let opened = Journal::on(self.disk.folder("journal/"), &*self.disk.folder(""), self.limits);
        let journal = match opened {
            Ok(journal) => journal,
            Err(JournalError::Io { .. }) => return Ok(None),
            Err(error) => return Err(format!("refused to start: {error}")),
        };
        let quarantine = match QuarantineFile::on(self.disk.folder("quarantine/"), self.quarantine_bytes) {
            Ok(quarantine) => quarantine,
            Err(_) => return Ok(None),
        };
        let (processor, shared, recovered) = match self.recover(&journal, quarantine) {
            Ok(recovered) => recovered,
            // It makes no difference when: it is tried again with a fresh start.
            Err(Refusal(why)) if why.contains("the quarantine does not take") => {
                deal(&self.disk, &self.dealt);
                return Ok(None);
            }
            Err(Refusal(why)) if why.contains("the disk failed to flush") => return Ok(None),
            Err(Refusal(why)) => return Err(format!("refused to start: {why}")),
        };
        self.fed = usize::try_from(recovered.resume(FILE).0.offset).expect("small");
        Ok(Some(self.process(journal, processor, shared, &recovered)))
    }

    fn recover(
        &self,
        journal: &Journal,
        quarantine: QuarantineFile,
    ) -> Result<(Processor, Shared, Recovered), Refusal> {
        let alerts_from = self.outbox.cursor().expect("memory");
        let entries = journal.next_sequence();
        if alerts_from > entries {
            return Err(Refusal(format!("the outbox knows of entry {alerts_from}, there are {entries}")));
        }
        let mut processor = processor(self.threads);
        let quarantine: Box<dyn Quarantine> = Box::new(quarantine);
        let recent = RecentDecisions::new(1_000);
        let shared = Shared { recent, quarantine: Mutex::new(quarantine), status: Status::default() };
        let mut recovery = Recovery {
            processor: &mut processor,
            shared: &shared,
            reread: &mut RereadLines(Arc::clone(&self.file)),
            alerts_from,
            refused_from: journal.unsure_from(),
            snapshot: None,
            recovered: Recovered::default(),
        };
        journal.replay(0, |sequence, payload| Ok::<_, Refusal>(recovery.entry(sequence, payload)?))?;
        let recovered = recovery.recovered;
        if recovered.differences + recovered.by_another_brain > 0 {
            return Err(Refusal("decided otherwise than recorded".into()));
        }
        let quarantine = lock(&shared.quarantine).flusher();
        if quarantine.flush().and_then(|()| journal.settle()).is_err() {
            return Err(Refusal("the disk failed to flush".into()));
        }
        let alerts = recovered.candidates.iter().map(alert).collect();
        self.outbox.put(alerts, entries, now_ms()).expect("memory takes it");
        self.disk.passes();
        Ok((processor, shared, recovered))
    }

    fn process(
        &mut self,
        journal: Journal,
        mut processor: Processor,
        shared: Shared,
        recovered: &Recovered,
    ) -> Process {
        processor.commit_to(Box::new(journal));
        let shared = Arc::new(shared);
        let (sender, inbox) = sync_channel(16);
        let (committed, to_flusher): (_, Receiver<Committed>) = sync_channel(64);
        let queue = Queue::default();
        let next = recovered.resume.iter().map(|(partition, resume)| (*partition, resume.offset)).collect();
        let (disk, dealt) = (self.disk.clone(), Arc::clone(&self.dealt));
        let mut patience = self.random.below(6);
        let wait = move |_: Duration| {
            NOW.set(NOW.get() + 250);
            if patience == 0 {
                disk.set_full(false);
                deal(&disk, &dealt);
            }
            patience = patience.checked_sub(1).unwrap_or(3);
            // Now and then it is stopped meanwhile.
            NOW.get() % 7 != 0
        };
        let engine = Loop {
            processor,
            inbox,
            committed,
            shared: Arc::clone(&shared),
            durability: self.durability,
            max_batch: 1 + self.random.upto(40),
            next_offsets: next,
            now_ms,
            wait: Box::new(wait),
            snapshots: None,
        };
        let notify = Box::new(ToQueue(Arc::clone(&queue)));
        let flusher = Flusher::new(to_flusher, self.durability, notify, Arc::clone(&shared));
        Process { engine, inbox: Inbox::new(sender, shared), flusher, queue, ahead: 0 }
    }

    /// Stops as an operator does.
    fn stop(&mut self) -> Result<(), String> {
        let Some(mut process) = self.process.take() else { return Err("it does not run".into()) };
        let settled = process.flusher.end().and_then(|()| process.engine.processor().log().settle());
        // A failing flush ends the process no less.
        settled.or_else(|error| if self.plan.faults { Ok(()) } else { Err(error.to_string()) })
    }
}

/// The operator looks at what was refused, and clears it.
fn deal(disk: &Disk, dealt: &Mutex<Vec<Refused>>) {
    let quarantine = disk.folder("quarantine/");
    let refused = refused_in(&*quarantine).expect("reads");
    let ids: String = refused.iter().map(|refused| refused.id() + "\n").collect();
    lock(dealt).extend(refused);
    let fed = quarantine.open("fed").expect("opens").map_or_else(|| quarantine.create("fed"), Ok);
    // A full disk takes no mark: they are listed still.
    if let Ok(fed) = fed
        && fed.write_at(fed.length().expect("a length"), ids.as_bytes()).is_ok()
    {
        let _ = fed.flush();
    }
}

/// The id in a record that has one.
pub fn id_of(record: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(record).ok()?;
    Some(value.get("transaction_id")?.as_str()?.to_owned())
}
