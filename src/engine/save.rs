//! The engine's state as bytes, and back.

use super::Engine;
use super::admission::SavedBook;
use crate::features::SavedLabels;

/// What a piece of saved state is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// How far time has come, by partition, and what was counted.
    Book,
    /// Ids of the older generation, and of the younger one.
    Old,
    Young,
    /// Transactions that labels can reach.
    Labels,
    /// Entities, after so many entries: see [`Engine::save_entities`].
    Entities,
}

/// All but the entities, as it was when a snapshot began; written by whoever has the time.
pub struct Frozen {
    book: SavedBook,
    labels: Vec<SavedLabels>,
}

impl Frozen {
    /// Calls `each` with all pieces.
    ///
    /// # Errors
    /// What `each` returns.
    pub fn write<E>(&self, mut each: impl FnMut(Part, &[u8]) -> Result<(), E>) -> Result<(), E> {
        each(Part::Book, &self.book.head())?;
        self.book.old_ids(|bytes| each(Part::Old, bytes))?;
        self.book.young_ids(|bytes| each(Part::Young, bytes))?;
        self.labels.iter().try_for_each(|labels| labels.write(|bytes| each(Part::Labels, bytes)))
    }
}

impl Engine {
    /// Begins a snapshot: all but the entities is frozen, the entities are to be [walked](Self::save_entities).
    pub fn freeze(&mut self) -> Frozen {
        let labels = self.shards.iter_mut().map(crate::features::FeatureShards::begin_walk).collect();
        Frozen { book: self.book.save(), labels }
    }

    /// Adds a slice of entities to `out`, about `budget` bytes; says whether there are more. `at` is how many
    /// journal entries were decided since the snapshot began.
    pub fn save_entities(&mut self, at: u32, budget: usize, out: &mut Vec<u8>) -> bool {
        while let Some(shards) = self.shards.get_mut(self.walking) {
            if shards.walk(at, budget, out) {
                return true;
            }
            self.walking += 1;
            if !out.is_empty() {
                return self.walking < self.shards.len();
            }
        }
        false
    }

    /// Ends a snapshot, complete or not.
    pub fn thaw(&mut self) {
        self.walking = 0;
        self.shards.iter_mut().for_each(crate::features::FeatureShards::end_walk);
    }

    /// Takes in a piece of saved state. The engine must be new, with the feature set, admission's settings
    /// and key of the one that saved it; the number of threads may be another.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(&mut self, part: Part, bytes: &[u8]) -> Result<(), &'static str> {
        match part {
            Part::Book => self.book.load_head(bytes),
            Part::Old => self.book.load_ids(bytes, false),
            Part::Young => self.book.load_ids(bytes, true),
            Part::Labels => self.shards.iter_mut().try_for_each(|shards| shards.load_labels(bytes)),
            Part::Entities => self.shards.iter_mut().try_for_each(|shards| shards.load_entities(bytes)),
        }
    }

    /// Says that the journal is followed up to entry `now`, counted from where the loaded snapshot began: what is
    /// decided then changes only what has not seen it. Features are not those of that time before the snapshot's
    /// end. `None` when all is live.
    pub fn replay(&mut self, now: Option<u32>) {
        self.shards.iter_mut().for_each(|shards| shards.replay(now));
    }
}
