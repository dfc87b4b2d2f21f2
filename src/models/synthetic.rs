//! Made-up forests and rows from a seed, for tests and benches of speed and shape.

use super::compiled::{Calibration, Compiled, Form, Node, Tree};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// A forest of complete trees `depth` splits deep with made-up covers.
#[must_use]
pub fn forest(seed: u64, trees: usize, depth: usize, width: u32) -> Compiled {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let trees = (0..trees).map(|_| Tree { nodes: grow(&mut random, depth, width) }).collect();
    let imputed = (0..width).map(|_| unit(&mut random)).collect();
    Compiled { width, imputed, form: Form::Forest { trees }, calibration: Calibration::None }
}

/// Row-major values in 0..1.
#[must_use]
pub fn rows(seed: u64, count: usize, width: usize) -> Vec<f64> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    (0..count * width).map(|_| unit(&mut random)).collect()
}

fn grow(random: &mut Xoshiro256PlusPlus, depth: usize, width: u32) -> Vec<Node> {
    if depth == 0 {
        let (value, cover) = (unit(random), 1.0 + (unit(random) * 100.0).floor());
        return vec![Node::leaf(value, cover)];
    }
    let moved = |nodes: Vec<Node>, by: usize| {
        let by = u32::try_from(by).unwrap_or(u32::MAX);
        nodes.into_iter().map(move |mut node| {
            if !node.is_leaf() {
                node.left += by;
                node.right += by;
            }
            node
        })
    };
    let slot = u32::try_from(random.next_u64() % u64::from(width)).unwrap_or_default();
    let threshold = unit(random);
    let left = grow(random, depth - 1, width);
    // Now and then a branch ends early, as in a trained tree.
    let below = if random.next_u64().is_multiple_of(8) { 0 } else { depth - 1 };
    let right = grow(random, below, width);
    let cover = [&left, &right].into_iter().filter_map(|nodes| nodes.first()).map(|node| node.cover).sum();
    let right_at = u32::try_from(1 + left.len()).unwrap_or(u32::MAX);
    let mut nodes = vec![Node::split(slot, threshold, 1, right_at, cover)];
    let shift = 1 + left.len();
    nodes.extend(moved(left, 1));
    nodes.extend(moved(right, shift));
    nodes
}

fn unit(random: &mut Xoshiro256PlusPlus) -> f64 {
    f64::from(u32::try_from(random.next_u64() >> 32).unwrap_or_default()) / 4_294_967_296.0
}
