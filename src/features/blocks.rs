//! A queue that can be copied in no time: its rows stand in blocks that copies share, and a block is copied when it
//! changes while somebody else still has it. A snapshot thus has what was there when it began, and costs those
//! who go on next to nothing.

use std::collections::VecDeque;
use std::sync::Arc;

/// Rows of a block.
const ROWS: usize = 4_096;

#[derive(Debug, Clone)]
pub struct Blocks<T> {
    blocks: VecDeque<Arc<Vec<T>>>,
    /// Rows of the first block that are gone.
    gone: usize,
    len: usize,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Self { blocks: VecDeque::new(), gone: 0, len: 0 }
    }
}

impl<T: Clone> Blocks<T> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn get(&self, at: usize) -> Option<&T> {
        let at = at + self.gone;
        self.blocks.get(at / ROWS)?.get(at % ROWS)
    }

    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        let at = at + self.gone;
        Arc::make_mut(self.blocks.get_mut(at / ROWS)?).get_mut(at % ROWS)
    }

    pub fn push_back(&mut self, row: T) {
        self.len += 1;
        match self.blocks.back_mut().filter(|last| last.len() < ROWS) {
            Some(last) => Arc::make_mut(last).push(row),
            None => {
                let mut block = Vec::with_capacity(if self.blocks.is_empty() { 0 } else { ROWS });
                block.push(row);
                self.blocks.push_back(Arc::new(block));
            }
        }
    }

    pub fn pop_front(&mut self) -> Option<T> {
        let row = self.get(0)?.clone();
        self.len -= 1;
        self.gone += 1;
        if self.gone == ROWS || self.len == 0 {
            self.blocks.pop_front();
            self.gone = 0;
        }
        Some(row)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flat_map(|block| block.iter()).skip(self.gone)
    }

    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.capacity() * size_of::<T>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Blocks;

    #[test]
    fn a_copy_keeps_what_it_had() {
        let mut rows = Blocks::default();
        for row in 0..10_000_u64 {
            rows.push_back(row);
        }
        let copy = rows.clone();
        for row in 10_000..20_000 {
            rows.push_back(row);
        }
        for row in 0..9_000 {
            assert_eq!(rows.pop_front(), Some(row));
        }
        *rows.get_mut(0).expect("there") = 7;
        assert_eq!(
            (rows.len(), rows.get(0), rows.get(1), rows.iter().count()),
            (11_000, Some(&7), Some(&9_001), 11_000)
        );
        assert!(copy.iter().copied().eq(0..10_000));
    }
}
