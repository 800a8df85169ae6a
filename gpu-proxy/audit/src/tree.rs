//! The Merkle tree of RFC 6962 over the blocks of a log.
//!
//! A [`Frontier`] is all that a writer keeps: the roots of the complete subtrees that the leaves so far make.
//! A [`Tree`] keeps leaves too and proves that one of them is in it, also where the first leaves are gone and
//! only the frontier that they left is known.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hash::Hash;

/// The right edge of a tree: enough to add leaves and to tell the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Frontier {
    size: u64,
    /// Roots of complete subtrees from left to right, the largest first: one for each bit set in `size`.
    nodes: Vec<Hash>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    size: u64,
    nodes: Vec<Hash>,
}

/// As many nodes as a tree of this size does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a tree of {size} leaves has {} nodes on its edge, not {nodes}", size.count_ones())]
pub struct NotAFrontier {
    size: u64,
    nodes: usize,
}

impl From<Frontier> for Unchecked {
    fn from(Frontier { size, nodes }: Frontier) -> Self {
        Self { size, nodes }
    }
}

impl TryFrom<Unchecked> for Frontier {
    type Error = NotAFrontier;

    fn try_from(Unchecked { size, nodes }: Unchecked) -> Result<Self, NotAFrontier> {
        if usize::try_from(size.count_ones()) != Ok(nodes.len()) {
            let nodes = nodes.len();
            return Err(NotAFrontier { size, nodes });
        }
        Ok(Self { size, nodes })
    }
}

impl Frontier {
    /// Leaves so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        // Each complete subtree as large as the one that ends here joins it.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.nodes.pop() {
                node = Hash::node(&left, &node);
            }
        }
        self.nodes.push(node);
        self.size += 1;
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        let Some(&last) = nodes.next() else {
            return Hash::empty();
        };
        nodes.fold(last, |right, left| Hash::node(left, &right))
    }
}

/// A tree with its leaves, all of them or those from some point on.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    base: Frontier,
    leaves: Vec<Hash>,
}

impl Tree {
    /// A tree whose first leaves are known by their frontier only.
    #[must_use]
    pub fn after(base: Frontier) -> Self {
        let leaves = Vec::new();
        Self { base, leaves }
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.leaves.push(leaf);
    }

    /// Leaves in all.
    #[must_use]
    pub fn size(&self) -> u64 {
        // A vector has less than 2^63 elements; a base near 2^64 has no leaves after it.
        self.base.size.saturating_add(self.leaves.len() as u64)
    }

    /// The hashes that lead from leaf `index` to the root of the tree as it was with `size` leaves, or none
    /// where that leaf or that size is not known.
    #[must_use]
    pub fn prove(&self, index: u64, size: u64) -> Option<Vec<Hash>> {
        if index < self.base.size || index >= size || size > self.size() {
            return None;
        }
        let (mut from, mut to) = (0, size);
        let mut path = Vec::new();
        while to - from > 1 {
            let middle = from + split(to - from);
            if index < middle {
                path.push(self.range(middle, to)?);
                to = middle;
            } else {
                path.push(self.range(from, middle)?);
                from = middle;
            }
        }
        path.reverse();
        Some(path)
    }

    /// The root over leaves `from..to`, a range that occurs in the tree.
    fn range(&self, from: u64, to: u64) -> Option<Hash> {
        let base = self.base.size;
        if to <= base {
            // A complete subtree beside a leaf that is known: it lies on the edge of the base.
            return self.edge(from, to);
        }
        if from + 1 == to {
            return self.leaves.get(usize::try_from(from - base).ok()?).copied();
        }
        let middle = from + split(to - from);
        Some(Hash::node(
            &self.range(from, middle)?,
            &self.range(middle, to)?,
        ))
    }

    fn edge(&self, from: u64, to: u64) -> Option<Hash> {
        let mut start = 0;
        for (bit, node) in bits(self.base.size).zip(&self.base.nodes) {
            if (start, start + bit) == (from, to) {
                return Some(*node);
            }
            start += bit;
        }
        None
    }
}

/// Whether `path` leads from `leaf` at `index` to the `root` of a tree of `size` leaves.
#[must_use]
pub fn is_included(leaf: Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut position, mut last) = (index, size - 1);
    let mut node = leaf;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if position % 2 == 1 || position == last {
            node = Hash::node(sibling, &node);
            // A node at the right edge without a sibling is its own parent.
            while position % 2 == 0 && position != 0 {
                position /= 2;
                last /= 2;
            }
        } else {
            node = Hash::node(&node, sibling);
        }
        position /= 2;
        last /= 2;
    }
    last == 0 && node == *root
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// The powers of two that make a number, the largest first.
fn bits(number: u64) -> impl Iterator<Item = u64> {
    (0..u64::BITS)
        .rev()
        .map(|bit| 1 << bit)
        .filter(move |bit| number & bit != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 6962, section 2.1, word by word.
    fn root_by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::empty(),
            [leaf] => *leaf,
            leaves => {
                let (left, right) =
                    leaves.split_at(usize::try_from(split(leaves.len() as u64)).unwrap());
                Hash::node(&root_by_definition(left), &root_by_definition(right))
            }
        }
    }

    fn leaf(number: usize) -> Hash {
        Hash::leaf(&number.to_le_bytes())
    }

    #[test]
    fn roots_are_those_of_the_definition() {
        let mut frontier = Frontier::default();
        let mut leaves = Vec::new();
        for number in 0..70 {
            assert_eq!(frontier.root(), root_by_definition(&leaves));
            assert_eq!(
                frontier.nodes.len() as u64,
                u64::from(frontier.size().count_ones())
            );
            frontier.push(leaf(number));
            leaves.push(leaf(number));
        }
    }

    proptest! {
        #[test]
        fn every_leaf_that_is_kept_is_proved_in_every_size(base in 0_usize..40, more in 1_usize..40) {
            let mut frontier = Frontier::default();
            (0..base).for_each(|number| frontier.push(leaf(number)));
            let mut tree = Tree::after(frontier.clone());
            for number in base..base + more {
                tree.push(leaf(number));
                frontier.push(leaf(number));
                let size = tree.size();
                for index in base..=number {
                    let path = tree.prove(index as u64, size).unwrap();
                    let root = frontier.root();
                    prop_assert!(is_included(leaf(index), index as u64, size, &path, &root));
                    prop_assert!(!is_included(leaf(index + 1), index as u64, size, &path, &root));
                    prop_assert!(!is_included(leaf(index), index as u64 + 1, size, &path, &root));
                    let mut wrong = path.clone();
                    wrong.push(Hash::ZERO);
                    prop_assert!(!is_included(leaf(index), index as u64, size, &wrong, &root));
                    if let Some((_, shorter)) = path.split_last() {
                        prop_assert!(!is_included(leaf(index), index as u64, size, shorter, &root));
                    }
                }
            }
            prop_assert_eq!(tree.prove(tree.size(), tree.size()), None);
            prop_assert_eq!(tree.prove(base as u64, tree.size() + 1), None);
            prop_assert!(base == 0 || tree.prove(0, tree.size()).is_none());
        }
    }
}
