//! Made-up forests and rows from a seed, for tests and benches of speed and shape.

use super::compiled::{Calibration, CategorySet, Compiled, Ensemble, Form, Link, Node, Rule, Side, Tree};
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

/// Trees of the same shape whose splits follow all rules in turn.
#[must_use]
pub fn ensemble(seed: u64, trees: usize, depth: usize, width: u32) -> Compiled {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut trees: Vec<Tree> = (0..trees).map(|_| Tree { nodes: grow(&mut random, depth, width) }).collect();
    for node in trees.iter_mut().flat_map(|tree| &mut tree.nodes).filter(|node| !node.is_leaf()) {
        let draw = random.next_u64();
        let missing = if draw.is_multiple_of(2) { Side::Left } else { Side::Right };
        node.rule = match draw >> 1 & 3 {
            0 | 1 => Rule::AtMost { missing },
            2 => Rule::ZeroMissing { missing },
            _ => Rule::Among { set: u32::from(draw & 8 == 0), missing },
        };
    }
    let sets = vec![CategorySet::of([0, 2, 70].into_iter(), false), CategorySet::of([1, 2, 33].into_iter(), true)];
    let link = Link::Logistic { slope: 0.5 };
    let form = Form::Ensemble(Ensemble { trees, sets, base: -0.5, divisor: 2.0, link });
    Compiled { width, imputed: vec![0.0; width as usize], form, calibration: Calibration::None }
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
