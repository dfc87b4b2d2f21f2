//! Trees laid out for descent: eight trees descend for one row side by side, or one tree for eight rows, so that
//! the loads of one hide the latency of another's, with no branch taken on data.
#![expect(
    clippy::indexing_slicing,
    reason = "a numeric kernel: every index is masked to a power of two or bounded by Compiled::validate"
)]

use super::columns::Columns;
use crate::models::compiled::Tree;

/// Trees, or rows, that descend side by side: 8 measured best of 4, 5, 6, 8 and 16.
const ABREAST: usize = 8;
/// Splits from root to leaf up to which a tree is laid out as a complete one.
const COMPLETE: usize = 8;

#[derive(Debug, Clone, Default)]
pub(super) struct Forest {
    groups: Vec<Group>,
    /// Of complete trees.
    thresholds: Vec<u64>,
    columns: Vec<u16>,
    leaves: Vec<f64>,
    /// Of the others.
    nodes: Vec<Linked>,
    values: Vec<f64>,
}

/// Up to `ABREAST` trees that follow one another; where they are fewer, empty ones fill the group.
#[derive(Debug, Clone, Copy)]
enum Group {
    /// Complete binary trees of 2^depth splits and leaves each, from `start`.
    Complete { start: usize, depth: usize },
    /// Trees of any shape, by their roots.
    Linked { roots: [u32; ABREAST], depth: usize },
}

/// A node whose right child follows its left one. A leaf is its own left child.
#[derive(Debug, Clone, Copy)]
struct Linked {
    threshold: u64,
    left: u32,
    column: u16,
}

/// A threshold that sends everything left.
const LEFT: u64 = u64::MAX;

impl Forest {
    pub(super) fn place(trees: &[Tree], columns: &Columns) -> Self {
        let mut forest = Self::default();
        // Complete trees take twice the memory a level: not where most of it would be empty.
        let complete = |tree: &Tree| {
            let depth = tree.depth();
            depth <= COMPLETE && tree.nodes.len() * 8 >= 1 << depth
        };
        // Groups do not mix shapes, and keep the order of the trees: it is the order of the sum.
        for run in trees.chunk_by(|a, b| complete(a) == complete(b)) {
            for trees in run.chunks(ABREAST) {
                let depth = trees.iter().map(Tree::depth).max().unwrap_or_default();
                let group = if trees.iter().all(complete) {
                    forest.place_complete(trees, depth, columns)
                } else {
                    forest.place_linked(trees, depth, columns)
                };
                forest.groups.push(group);
            }
        }
        forest
    }

    fn place_complete(&mut self, trees: &[Tree], depth: usize, columns: &Columns) -> Group {
        let (start, size) = (self.leaves.len(), 1 << depth);
        let end = start + ABREAST * size;
        self.thresholds.resize(end, LEFT);
        self.columns.resize(end, 0);
        self.leaves.resize(end, 0.0);
        for (number, tree) in trees.iter().enumerate() {
            self.fill(tree, 0, 1, start + number * size, size, columns);
        }
        Group::Complete { start, depth }
    }

    /// Puts `node` at place `at` (the root is 1, the children of n are 2n and 2n + 1; leaves
    /// follow from `size`). A leaf that comes early is repeated below itself.
    fn fill(&mut self, tree: &Tree, node: usize, at: usize, start: usize, size: usize, columns: &Columns) {
        let found = tree.nodes[node];
        if at >= size {
            self.leaves[start + at - size] = found.value;
            return;
        }
        let (left, right) = if found.is_leaf() {
            (node, node)
        } else {
            (self.columns[start + at], self.thresholds[start + at]) = columns.test(&found);
            (found.left as usize, found.right as usize)
        };
        self.fill(tree, left, 2 * at, start, size, columns);
        self.fill(tree, right, 2 * at + 1, start, size, columns);
    }

    fn place_linked(&mut self, trees: &[Tree], depth: usize, columns: &Columns) -> Group {
        let mut roots = [0; ABREAST];
        for (root, tree) in roots.iter_mut().zip(trees) {
            *root = self.link(tree, columns);
        }
        for root in roots.iter_mut().skip(trees.len()) {
            *root = self.push_leaf();
        }
        Group::Linked { roots, depth }
    }

    fn push_leaf(&mut self) -> u32 {
        let at = u32::try_from(self.nodes.len()).unwrap_or_default();
        self.nodes.push(Linked { threshold: LEFT, left: at, column: 0 });
        self.values.push(0.0);
        at
    }

    /// Level by level, children side by side.
    fn link(&mut self, tree: &Tree, columns: &Columns) -> u32 {
        let root = self.push_leaf();
        let mut level = vec![(0, root)];
        while !level.is_empty() {
            let mut next = Vec::new();
            for (node, at) in level {
                let found = tree.nodes[node as usize];
                if found.is_leaf() {
                    self.values[at as usize] = found.value;
                    continue;
                }
                let (left, right) = (self.push_leaf(), self.push_leaf());
                let (column, threshold) = columns.test(&found);
                self.nodes[at as usize] = Linked { threshold, left, column };
                next.extend([(found.left, left), (found.right, right)]);
            }
            level = next;
        }
        root
    }

    /// Adds each tree's leaf to each row's sum, in the order of the trees.
    pub(super) fn add<const W: usize>(&self, rows: &[[u64; W]], sums: &mut [f64]) {
        for group in &self.groups {
            match *group {
                Group::Complete { start, depth } => match depth {
                    0 => self.complete::<W, 1>(start, rows, sums),
                    1 => self.complete::<W, 2>(start, rows, sums),
                    2 => self.complete::<W, 4>(start, rows, sums),
                    3 => self.complete::<W, 8>(start, rows, sums),
                    4 => self.complete::<W, 16>(start, rows, sums),
                    5 => self.complete::<W, 32>(start, rows, sums),
                    6 => self.complete::<W, 64>(start, rows, sums),
                    7 => self.complete::<W, 128>(start, rows, sums),
                    _ => self.complete::<W, { 1 << COMPLETE }>(start, rows, sums),
                },
                Group::Linked { roots, depth } => {
                    for (row, sum) in rows.iter().zip(sums.iter_mut()) {
                        self.follow(roots, depth, row, sum);
                    }
                }
            }
        }
    }

    fn complete<const W: usize, const N: usize>(&self, start: usize, rows: &[[u64; W]], sums: &mut [f64]) {
        fn group<T, const N: usize>(all: &[T]) -> Option<&[[T; N]; ABREAST]> {
            all.as_chunks::<N>().0.first_chunk()
        }
        let (thresholds, columns) = (group(&self.thresholds[start..]), group(&self.columns[start..]));
        let (Some(thresholds), Some(columns), Some(leaves)) = (thresholds, columns, group(&self.leaves[start..]))
        else {
            return;
        };
        // Many rows descend one tree side by side, which stays in the nearest cache; what remains descends many
        // trees side by side. Either way a row's sum takes the trees in their order.
        let (many, few) = rows.as_chunks::<ABREAST>();
        let (many_sums, few_sums) = sums.as_chunks_mut::<ABREAST>();
        if !many.is_empty() {
            for ((thresholds, columns), leaves) in thresholds.iter().zip(columns).zip(leaves) {
                for (rows, sums) in many.iter().zip(many_sums.iter_mut()) {
                    descend_together::<W, N>(rows, thresholds, columns, leaves, sums);
                }
            }
        }
        for (row, sum) in few.iter().zip(few_sums) {
            descend::<W, N>(row, thresholds, columns, leaves, sum);
        }
    }

    fn follow<const W: usize>(&self, roots: [u32; ABREAST], depth: usize, row: &[u64; W], sum: &mut f64) {
        let mut places = roots;
        for _ in 0..depth {
            for place in &mut places {
                let node = self.nodes[*place as usize];
                *place = node.left + u32::from(row[usize::from(node.column) & (W - 1)] > node.threshold);
            }
        }
        for place in places {
            *sum += self.values[place as usize];
        }
    }
}

/// `N` is 2 to the trees' depth: arrays of known size and masked indices need no bound checks. Not inlined:
/// the places must stay in registers.
#[inline(never)]
fn descend<const W: usize, const N: usize>(
    row: &[u64; W],
    thresholds: &[[u64; N]; ABREAST],
    columns: &[[u16; N]; ABREAST],
    leaves: &[[f64; N]; ABREAST],
    sum: &mut f64,
) {
    let mut places = [1_usize; ABREAST];
    for _ in 0..N.trailing_zeros() {
        for ((place, thresholds), columns) in places.iter_mut().zip(thresholds).zip(columns) {
            let at = *place & (N - 1);
            let column = usize::from(columns[at]) & (W - 1);
            *place = 2 * at + usize::from(row[column] > thresholds[at]);
        }
    }
    for (leaves, place) in leaves.iter().zip(places) {
        *sum += leaves[place & (N - 1)];
    }
}

/// The same for one tree and many rows.
#[inline]
fn descend_together<const W: usize, const N: usize>(
    rows: &[[u64; W]; ABREAST],
    thresholds: &[u64; N],
    columns: &[u16; N],
    leaves: &[f64; N],
    sums: &mut [f64; ABREAST],
) {
    let mut places = [1_usize; ABREAST];
    for _ in 0..N.trailing_zeros() {
        for (place, row) in places.iter_mut().zip(rows) {
            let at = *place & (N - 1);
            *place = 2 * at + usize::from(row[usize::from(columns[at]) & (W - 1)] > thresholds[at]);
        }
    }
    for (sum, place) in sums.iter_mut().zip(places) {
        *sum += leaves[place & (N - 1)];
    }
}
