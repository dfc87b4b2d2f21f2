//! One row of features a transaction, written by several workers at once, each its own cells.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::features::RowSink;

/// Rows of features. A cell nobody wrote is NaN: missing.
#[derive(Debug, Default)]
pub struct Matrix {
    /// The bits of f64s. Relaxed stores are plain moves; the end of a phase is what orders them.
    cells: Vec<AtomicU64>,
    width: usize,
    rows: usize,
}

const MISSING: u64 = f64::NAN.to_bits();

impl Matrix {
    /// Makes room for `rows` rows of `width` missing values.
    pub fn reset(&mut self, rows: usize, width: usize) {
        let cells = rows * width;
        for cell in self.cells.iter_mut().take(cells) {
            *cell.get_mut() = MISSING;
        }
        if self.cells.len() < cells {
            self.cells.resize_with(cells, || AtomicU64::new(MISSING));
        }
        self.width = width;
        self.rows = rows;
    }

    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Where the features of a piece go whose first row is `first`.
    #[must_use]
    pub fn sink(&self, first: usize) -> Rows<'_> {
        Rows { cells: self.cells.get(first * self.width..).unwrap_or_default(), width: self.width }
    }

    /// Copies some rows, one after the other, into `to`, which is cleared first.
    pub fn copy_rows(&self, rows: Range<usize>, to: &mut Vec<f64>) {
        to.clear();
        let end = rows.end.min(self.rows) * self.width;
        let cells = self.cells.get(rows.start * self.width..end).unwrap_or_default();
        to.extend(cells.iter().map(|cell| f64::from_bits(cell.load(Ordering::Relaxed))));
    }

    /// One row.
    #[must_use]
    pub fn row(&self, row: usize) -> Vec<f64> {
        let mut values = Vec::with_capacity(self.width);
        self.copy_rows(row..row + 1, &mut values);
        values
    }
}

/// Rows of a [`Matrix`] from some row on.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    cells: &'a [AtomicU64],
    width: usize,
}

impl RowSink for Rows<'_> {
    #[inline]
    fn put(&mut self, row: usize, slot: usize, value: f64) {
        if let Some(cell) = self.cells.get(row * self.width + slot) {
            cell.store(value.to_bits(), Ordering::Relaxed);
        }
    }
}
