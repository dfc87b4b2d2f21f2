//! Whether a transaction changes what Caddis knows: duplicates, late and future transactions are told
//! apart here, one after another in the order of the journal, by event time alone.

use hashbrown::{HashMap, HashTable};

use crate::features::Blocks;
use crate::transaction::EventTime;

/// How far out of order a stream may be, and how long a transaction's id is remembered. Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// A transaction older than its partition's newest by more than this is late: decided, not remembered.
    pub allowed_lateness: i64,
    /// A transaction ahead of its arrival by more than this is refused, so that it cannot drag time along.
    pub max_future: i64,
    /// An id is remembered for at least this long in event time (and at most for twice as long).
    pub dedupe_horizon: i64,
    /// At most this many ids are remembered in each half of the memory; the oldest are given up first.
    pub dedupe_limit: usize,
}

impl Default for AdmissionSettings {
    fn default() -> Self {
        Self { allowed_lateness: 3_600_000, max_future: 600_000, dedupe_horizon: 86_400_000, dedupe_limit: 4_000_000 }
    }
}

/// What a transaction is, before anything is worked out for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing {
    /// Decided and remembered.
    Admitted,
    /// Decided and flagged; it changes no window.
    Late,
    /// Its id was decided before: the first decision stands.
    Duplicate(First),
    /// Too far ahead of its arrival.
    Future,
}

/// What is remembered of a decision for its duplicates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct First {
    pub partition: u32,
    pub offset: u64,
}

/// Remembers ids and how far each partition has come.
#[derive(Debug)]
pub struct AdmissionBook {
    settings: AdmissionSettings,
    newest: HashMap<u32, EventTime, foldhash::fast::FixedState>,
    /// The ids of this generation and of the one before; a generation lasts one dedupe horizon.
    young: Generation,
    old: Generation,
    generation_start: EventTime,
    counts: AdmissionCounts,
}

/// Ids in the order they came, and where to find each: the table is small enough to stay in the cache, and the ids
/// themselves are read only where one is found.
#[derive(Debug, Default)]
struct Generation {
    ids: Blocks<(u64, First)>,
    /// Places in `ids`. An id is a keyed hash already.
    places: HashTable<u32>,
}

impl Generation {
    fn find(&self, id: u64) -> Option<First> {
        let known = |at: &u32| self.ids.get(*at as usize).filter(|(known, _)| *known == id);
        self.places.find(id, |at| known(at).is_some()).and_then(known).map(|(_, first)| *first)
    }

    /// What is remembered of an id; if it is new, it is remembered from now on.
    fn find_or_add(&mut self, id: u64, first: First) -> Option<First> {
        let Self { ids, places } = self;
        let same = |at: &u32| ids.get(*at as usize).is_some_and(|(known, _)| *known == id);
        match places.entry(id, same, |at| ids.get(*at as usize).map_or(0, |(id, _)| *id)) {
            hashbrown::hash_table::Entry::Occupied(at) => ids.get(*at.get() as usize).map(|(_, first)| *first),
            hashbrown::hash_table::Entry::Vacant(slot) => {
                slot.insert(u32::try_from(ids.len()).unwrap_or(u32::MAX));
                ids.push_back((id, first));
                None
            }
        }
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn clear(&mut self) {
        self.ids.clear();
        self.places.clear();
    }
}

/// Totals since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdmissionCounts {
    pub admitted: u64,
    pub late: u64,
    pub duplicates: u64,
    pub future: u64,
    /// Ids forgotten before their horizon because the limit was met.
    pub forgotten_early: u64,
}

impl AdmissionBook {
    #[must_use]
    pub fn new(settings: AdmissionSettings) -> Self {
        Self {
            settings,
            newest: HashMap::default(),
            young: Generation::default(),
            old: Generation::default(),
            generation_start: EventTime::MIN,
            counts: AdmissionCounts::default(),
        }
    }

    #[must_use]
    pub fn counts(&self) -> AdmissionCounts {
        self.counts
    }

    /// The newest event time of any partition; `None` before the first transaction.
    #[must_use]
    pub fn newest(&self) -> Option<EventTime> {
        self.newest.values().copied().max()
    }

    /// Before this time nothing of `partition` is admitted any more.
    #[must_use]
    pub fn watermark(&self, partition: u32) -> Option<EventTime> {
        self.newest.get(&partition).map(|newest| newest - self.settings.allowed_lateness)
    }

    /// Reads the memory that judging this id will read, so that the processor waits for that of several ids at once.
    #[must_use]
    pub fn touch(&self, id_hash: u64) -> u64 {
        let of = |ids: &Generation| ids.find(id_hash).map_or(0, |first| first.offset);
        of(&self.old) ^ of(&self.young)
    }

    /// Judges one transaction and remembers it. `id_hash` is the keyed hash of its id; `arrival` is when
    /// its batch came in, or `EventTime::MAX` for recorded streams, where nothing is too far ahead.
    pub fn admit(
        &mut self,
        partition: u32,
        offset: u64,
        id_hash: u64,
        event_time: EventTime,
        arrival: EventTime,
    ) -> Standing {
        if event_time > arrival.saturating_add(self.settings.max_future) {
            self.counts.future += 1;
            return Standing::Future;
        }
        let here = First { partition, offset };
        if let Some(first) = self.old.find(id_hash).or_else(|| self.young.find_or_add(id_hash, here)) {
            self.counts.duplicates += 1;
            return Standing::Duplicate(first);
        }
        let newest = self.newest.entry(partition).or_insert(event_time);
        let late = event_time < *newest - self.settings.allowed_lateness;
        if event_time > *newest {
            *newest = event_time;
        }
        if self.generation_start == EventTime::MIN {
            self.generation_start = *newest;
        }
        let full = self.young.len() >= self.settings.dedupe_limit;
        if *newest >= self.generation_start.saturating_add(self.settings.dedupe_horizon) || full {
            if full {
                self.counts.forgotten_early += self.old.len() as u64;
            }
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.generation_start = (*newest).max(self.generation_start);
        }
        if late {
            self.counts.late += 1;
            Standing::Late
        } else {
            self.counts.admitted += 1;
            Standing::Admitted
        }
    }
}

/// The book as it was at a moment, whatever becomes of it later.
pub struct SavedBook {
    newest: Vec<(u32, EventTime)>,
    generation_start: EventTime,
    counts: AdmissionCounts,
    old: Blocks<(u64, First)>,
    young: Blocks<(u64, First)>,
}

impl AdmissionBook {
    /// The book as it is now.
    #[must_use]
    pub fn save(&self) -> SavedBook {
        let mut newest: Vec<_> = self.newest.iter().map(|(partition, newest)| (*partition, *newest)).collect();
        newest.sort_unstable();
        SavedBook {
            newest,
            generation_start: self.generation_start,
            counts: self.counts,
            old: self.old.ids.clone(),
            young: self.young.ids.clone(),
        }
    }

    /// Takes in what `SavedBook::head` gave.
    ///
    /// # Errors
    /// It is something else.
    pub fn load_head(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let words: Vec<i64> =
            bytes.chunks(8).filter_map(|word| word.first_chunk::<8>()).map(|word| i64::from_le_bytes(*word)).collect();
        let [start, admitted, late, duplicates, future, forgotten_early, newest @ ..] = words.as_slice() else {
            return Err("ends in the middle");
        };
        let [admitted, late, duplicates, future, forgotten_early] =
            [admitted, late, duplicates, future, forgotten_early].map(|count| count.cast_unsigned());
        self.generation_start = *start;
        self.counts = AdmissionCounts { admitted, late, duplicates, future, forgotten_early };
        for of_partition in newest.chunks_exact(2) {
            let [partition, newest] = of_partition else { continue };
            let partition = u32::try_from(*partition).map_err(|_| "has a partition that is none")?;
            self.newest.insert(partition, *newest);
        }
        Ok(())
    }

    /// Takes in ids of a generation, in order.
    ///
    /// # Errors
    /// They are none.
    pub fn load_ids(&mut self, bytes: &[u8], young: bool) -> Result<(), &'static str> {
        let generation = if young { &mut self.young } else { &mut self.old };
        let mut rest = bytes;
        while let Some((id, after)) = rest.split_first_chunk::<8>() {
            let (partition, after) = after.split_first_chunk::<4>().ok_or("ends in the middle")?;
            let (offset, after) = after.split_first_chunk::<8>().ok_or("ends in the middle")?;
            let first = First { partition: u32::from_le_bytes(*partition), offset: u64::from_le_bytes(*offset) };
            generation.find_or_add(u64::from_le_bytes(*id), first);
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err("ends in the middle") }
    }
}

impl SavedBook {
    /// All but the ids: the generation's start, the counts, then partitions with their newest times; 64 bits each,
    /// little endian.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        let AdmissionCounts { admitted, late, duplicates, future, forgotten_early } = self.counts;
        let counts = [admitted, late, duplicates, future, forgotten_early].map(u64::cast_signed);
        let newest = self.newest.iter().flat_map(|(partition, newest)| [i64::from(*partition), *newest]);
        let words = std::iter::once(self.generation_start).chain(counts).chain(newest);
        words.flat_map(i64::to_le_bytes).collect()
    }

    /// Calls `each` with parts of the older generation's ids.
    ///
    /// # Errors
    /// What `each` returns.
    pub fn old_ids<E>(&self, each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        ids(&self.old, each)
    }

    /// Calls `each` with parts of the younger generation's ids.
    ///
    /// # Errors
    /// What `each` returns.
    pub fn young_ids<E>(&self, each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        ids(&self.young, each)
    }
}

fn ids<E>(ids: &Blocks<(u64, First)>, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut bytes = Vec::new();
    for (id, First { partition, offset }) in ids.iter() {
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&partition.to_le_bytes());
        bytes.extend_from_slice(&offset.to_le_bytes());
        if bytes.len() >= 1 << 19 {
            each(&bytes)?;
            bytes.clear();
        }
    }
    if bytes.is_empty() { Ok(()) } else { each(&bytes) }
}

#[cfg(test)]
mod tests {
    use super::{AdmissionBook, AdmissionSettings, First, Standing};

    fn book(dedupe_limit: usize) -> AdmissionBook {
        AdmissionBook::new(AdmissionSettings {
            allowed_lateness: 100,
            max_future: 50,
            dedupe_horizon: 1_000,
            dedupe_limit,
        })
    }

    #[test]
    fn a_duplicate_names_the_first_of_its_id_for_at_least_the_horizon() {
        let mut book = book(100);
        assert_eq!(book.admit(0, 7, 1, 5_000, i64::MAX), Standing::Admitted);
        assert_eq!(book.admit(1, 3, 1, 5_000, i64::MAX), Standing::Duplicate(First { partition: 0, offset: 7 }));
        assert_eq!(book.admit(0, 8, 2, 5_999, i64::MAX), Standing::Admitted);
        assert_eq!(book.admit(0, 9, 1, 6_000, i64::MAX), Standing::Duplicate(First { partition: 0, offset: 7 }));
        for step in 1..=3 {
            book.admit(0, 9 + step, 10 + step, 6_000 + 1_000 * i64::try_from(step).expect("small"), i64::MAX);
        }
        assert_eq!(book.admit(0, 20, 1, 9_000, i64::MAX), Standing::Admitted);
    }

    #[test]
    fn late_is_behind_the_watermark_of_its_own_partition() {
        let mut book = book(100);
        assert_eq!(book.admit(0, 0, 1, 1_000, i64::MAX), Standing::Admitted);
        assert_eq!(book.admit(0, 1, 2, 900, i64::MAX), Standing::Admitted);
        assert_eq!(book.admit(0, 2, 3, 899, i64::MAX), Standing::Late);
        assert_eq!(book.admit(1, 0, 4, 10, i64::MAX), Standing::Admitted);
    }

    #[test]
    fn a_future_transaction_moves_nothing() {
        let mut book = book(100);
        assert_eq!(book.admit(0, 0, 1, 1_000, 1_000), Standing::Admitted);
        assert_eq!(book.admit(0, 1, 2, 1_051, 1_000), Standing::Future);
        assert_eq!(book.newest(), Some(1_000));
        assert_eq!(book.admit(0, 2, 2, 1_050, 1_000), Standing::Admitted);
    }

    #[test]
    fn memory_is_bounded_and_what_was_given_up_is_counted() {
        let mut book = book(10);
        for id in 0..25 {
            book.admit(0, id, id, 1_000, i64::MAX);
        }
        assert!(book.young.len() + book.old.len() <= 20);
        assert_eq!(book.counts().forgotten_early, 10);
    }
}
