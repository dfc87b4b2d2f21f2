//! Trees from nodes in any order.

use crate::models::compiled::{MAX_DEPTH, Node, Rule, Tree};

/// A node as a file has it; children are the file's own indices.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw {
    Leaf { value: f64, cover: f64 },
    Split { slot: u32, threshold: f64, rule: Rule, left: usize, right: usize, cover: f64 },
}

/// What to place, how deep, and which side of which parent it is.
type Waiting = (usize, usize, Option<(usize, bool)>);

/// The tree below `root`, each node before its children. `nodes` is how many the file has at most.
///
/// # Errors
/// When a node is missing or met twice, or the tree is too deep.
pub(super) fn tree(root: usize, nodes: usize, get: impl Fn(usize) -> Result<Raw, String>) -> Result<Tree, String> {
    let mut placed: Vec<Node> = Vec::new();
    let mut waiting: Vec<Waiting> = vec![(root, 0, None)];
    while let Some((raw, depth, parent)) = waiting.pop() {
        if depth > MAX_DEPTH {
            return Err(format!("it is deeper than {MAX_DEPTH} splits"));
        }
        if placed.len() >= nodes {
            return Err(format!("node {raw} is met twice"));
        }
        let at = placed.len();
        if let Some((parent, left)) = parent {
            let child = u32::try_from(at).map_err(|_| "it has too many nodes".to_owned())?;
            if let Some(parent) = placed.get_mut(parent) {
                if left { parent.left = child } else { parent.right = child }
            }
        }
        match get(raw).map_err(|why| format!("node {raw}: {why}"))? {
            Raw::Leaf { value, .. } if !value.is_finite() => {
                return Err(format!("node {raw}: a leaf of {value}"));
            }
            Raw::Split { threshold, .. } if !threshold.is_finite() => {
                return Err(format!("node {raw}: a threshold of {threshold}"));
            }
            Raw::Leaf { value, cover } => placed.push(Node::leaf(value, cover)),
            Raw::Split { slot, threshold, rule, left, right, cover } => {
                let mut node = Node::split(slot, threshold, 0, 0, cover);
                node.rule = rule;
                placed.push(node);
                waiting.push((right, depth + 1, Some((at, false))));
                waiting.push((left, depth + 1, Some((at, true))));
            }
        }
    }
    Ok(Tree { nodes: placed })
}

#[cfg(test)]
mod tests {
    use super::{Raw, tree};
    use crate::models::compiled::{Rule, Side};

    #[test]
    fn a_tree_is_put_in_order_and_one_that_is_none_is_refused() {
        let split = |left, right| {
            let rule = Rule::AtMost { missing: Side::Left };
            Raw::Split { slot: 0, threshold: 1.0, rule, left, right, cover: 2.0 }
        };
        let leaf = |value| Raw::Leaf { value, cover: 1.0 };
        let good = [leaf(1.0), split(3, 0), leaf(2.0), split(2, 4), leaf(3.0)];
        let found = tree(1, 5, |at| good.get(at).copied().ok_or_else(|| "none".to_owned())).unwrap();
        assert_eq!(found.predict(&[0.5], &[]), 2.0);
        assert_eq!(found.nodes.len(), 5);
        let get = |nodes: &[Raw]| {
            let nodes = nodes.to_vec();
            tree(0, nodes.len(), move |at| nodes.get(at).copied().ok_or_else(|| "not there".to_owned()))
        };
        assert_eq!(get(&[split(1, 0), leaf(1.0)]).unwrap_err(), "node 0 is met twice");
        assert_eq!(get(&[split(1, 7), leaf(1.0), leaf(1.0)]).unwrap_err(), "node 7: not there");
        assert_eq!(get(&[leaf(f64::INFINITY)]).unwrap_err(), "node 0: a leaf of inf");
        let chain: Vec<Raw> = (0..200).map(|at| if at < 199 { split(at + 1, 199) } else { leaf(0.0) }).collect();
        assert_eq!(get(&chain).unwrap_err(), "it is deeper than 64 splits");
    }
}
