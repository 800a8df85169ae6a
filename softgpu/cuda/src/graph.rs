//! Graphs: nodes in the order in which they were made, and what each of them waits for.
//!
//! What a node does is an [`Operation`]; a stream that is captured and the calls that add nodes make the
//! same ones. [`exec::Exec`] is a graph made ready to be launched.
#![forbid(unsafe_code)]

pub(crate) mod exec;
pub(crate) mod object;
pub(crate) mod operation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cuda_abi::types::CUgraphEdgeData;
use softgpu_core::error::{Error, Result};

use crate::driver::{Driver, driver};
use object::Reference;
pub(crate) use operation::Operation;

/// A graph.
pub(crate) struct Graph {
    /// As `cuGraphGetId` tells it.
    pub id: u32,
    /// The program's name for it, once it has asked for one.
    handle: AtomicU64,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    /// By id, which is the order in which they were made.
    entries: BTreeMap<u64, Entry>,
    last_local: u32,
    /// What the graph keeps alive, and how many of its references are to each.
    objects: Vec<(Reference, u64)>,
    /// The graph that this one was cloned from.
    clone_of: Option<u32>,
}

struct Entry {
    node: Arc<Node>,
    operation: Operation,
    before: Vec<Edge>,
}

/// A node, as its handle sees it.
pub(crate) struct Node {
    /// Unique for the life of the process.
    pub id: u64,
    /// Counts the nodes of its graph.
    pub local: u32,
    /// The node that this one was cloned from.
    origin: Option<u64>,
    graph: Weak<Graph>,
    handle: AtomicU64,
}

/// What a node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub from: u64,
    pub data: CUgraphEdgeData,
}

impl Edge {
    /// An edge that says nothing but the order.
    pub fn plain(from: u64) -> Self {
        Self {
            from,
            data: CUgraphEdgeData::default(),
        }
    }
}

/// A node and what there is to know about it, as of now.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub node: Arc<Node>,
    pub operation: Operation,
    pub before: Vec<Edge>,
}

impl Node {
    /// The graph that it is in.
    pub fn graph(&self) -> Result<Arc<Graph>> {
        self.graph.upgrade().ok_or(Error::InvalidValue)
    }

    /// What it does.
    pub fn operation(&self) -> Result<Operation> {
        self.graph()?.operation(self.id)
    }

    /// The program's name for it.
    pub fn handle(self: &Arc<Self>) -> Result<u64> {
        name(&self.handle, |driver| driver.nodes.insert(Arc::clone(self)))
    }

    fn forget(&self, driver: &Driver) {
        match self.handle.load(Ordering::Relaxed) {
            0 => {}
            handle => drop(driver.nodes.remove(handle)),
        }
    }
}

/// Gives an object a handle when somebody first asks for it.
fn name(place: &AtomicU64, insert: impl FnOnce(&Driver) -> Option<u64>) -> Result<u64> {
    static NAMING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = NAMING.lock().unwrap_or_else(PoisonError::into_inner);
    match place.load(Ordering::Relaxed) {
        0 => {
            let handle = insert(driver()?).ok_or(Error::OutOfMemory)?;
            place.store(handle, Ordering::Relaxed);
            Ok(handle)
        }
        handle => Ok(handle),
    }
}

impl Graph {
    /// A graph without nodes.
    pub fn new() -> Arc<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        Arc::new(Self {
            id: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            handle: AtomicU64::new(0),
            nodes: Mutex::default(),
        })
    }

    /// The program's name for it.
    pub fn handle(self: &Arc<Self>) -> Result<u64> {
        name(&self.handle, |driver| {
            driver.graphs.insert(Arc::clone(self))
        })
    }

    /// Takes its name and those of its nodes away.
    pub fn forget(&self, driver: &Driver) {
        match self.handle.load(Ordering::Relaxed) {
            0 => {}
            handle => drop(driver.graphs.remove(handle)),
        }
        for entry in self.nodes().entries.values() {
            entry.node.forget(driver);
            if let Operation::Child(child) = &entry.operation {
                child.forget(driver);
            }
        }
    }

    /// Adds a node behind others of the same graph.
    pub fn add(self: &Arc<Self>, operation: Operation, before: Vec<Edge>) -> Result<Arc<Node>> {
        self.insert(operation, before, None)
    }

    fn insert(
        self: &Arc<Self>,
        operation: Operation,
        before: Vec<Edge>,
        origin: Option<u64>,
    ) -> Result<Arc<Node>> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let mut nodes = self.nodes();
        let mut seen = BTreeSet::new();
        let fine = |edge: &Edge| nodes.entries.contains_key(&edge.from) && seen.insert(edge.from);
        if !before.iter().all(fine) {
            return Err(Error::InvalidValue);
        }
        nodes.last_local += 1;
        let node = Arc::new(Node {
            id: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            local: nodes.last_local,
            origin,
            graph: Arc::downgrade(self),
            handle: AtomicU64::new(0),
        });
        let entry = Entry {
            node: Arc::clone(&node),
            operation,
            before,
        };
        nodes.entries.insert(node.id, entry);
        Ok(node)
    }

    /// Takes a node out, with its edges.
    pub fn remove(&self, node: &Node) -> Result<()> {
        let mut nodes = self.nodes();
        let gone = nodes.entries.remove(&node.id).ok_or(Error::InvalidValue)?;
        for entry in nodes.entries.values_mut() {
            entry.before.retain(|edge| edge.from != node.id);
        }
        let driver = driver()?;
        gone.node.forget(driver);
        if let Operation::Child(child) = &gone.operation {
            child.forget(driver);
        }
        Ok(())
    }

    /// Nodes in the order in which they were made.
    pub fn snapshot(&self) -> Vec<Snapshot> {
        let nodes = self.nodes();
        let all = nodes.entries.values().map(|entry| Snapshot {
            node: Arc::clone(&entry.node),
            operation: entry.operation.clone(),
            before: entry.before.clone(),
        });
        all.collect()
    }

    /// A node of this graph.
    pub fn node(&self, id: u64) -> Option<Arc<Node>> {
        let nodes = self.nodes();
        nodes.entries.get(&id).map(|entry| Arc::clone(&entry.node))
    }

    /// A node of this graph or of one inside it.
    pub fn node_within(&self, id: u64) -> Option<Arc<Node>> {
        let nodes = self.nodes();
        let own = nodes.entries.get(&id).map(|entry| Arc::clone(&entry.node));
        own.or_else(|| {
            nodes
                .entries
                .values()
                .find_map(|entry| match &entry.operation {
                    Operation::Child(child) => child.node_within(id),
                    _ => None,
                })
        })
    }

    /// What a node does.
    pub fn operation(&self, id: u64) -> Result<Operation> {
        let nodes = self.nodes();
        let entry = nodes.entries.get(&id).ok_or(Error::InvalidValue)?;
        Ok(entry.operation.clone())
    }

    /// Changes what a node does.
    pub fn set_operation(&self, id: u64, operation: Operation) -> Result<()> {
        let mut nodes = self.nodes();
        let entry = nodes.entries.get_mut(&id).ok_or(Error::InvalidValue)?;
        entry.operation = operation;
        Ok(())
    }

    /// Adds edges; all of them or none.
    pub fn connect(&self, edges: &[(u64, Edge)]) -> Result<()> {
        let mut nodes = self.nodes();
        for (index, (to, edge)) in edges.iter().enumerate() {
            let target = nodes.entries.get(to).ok_or(Error::InvalidValue)?;
            let same = |(other, found): &(u64, Edge)| other == to && found.from == edge.from;
            if *to == edge.from
                || !nodes.entries.contains_key(&edge.from)
                || target.before.iter().any(|known| known.from == edge.from)
                || edges[..index].iter().any(same)
            {
                return Err(Error::InvalidValue);
            }
        }
        for (to, edge) in edges {
            if let Some(entry) = nodes.entries.get_mut(to) {
                entry.before.push(*edge);
            }
        }
        Ok(())
    }

    /// Takes edges away; all of them or none.
    pub fn disconnect(&self, edges: &[(u64, Edge)]) -> Result<()> {
        let mut nodes = self.nodes();
        for (to, edge) in edges {
            let target = nodes.entries.get(to).ok_or(Error::InvalidValue)?;
            if !target.before.contains(edge) {
                return Err(Error::InvalidValue);
            }
        }
        for (to, edge) in edges {
            if let Some(entry) = nodes.entries.get_mut(to) {
                entry.before.retain(|known| known != edge);
            }
        }
        Ok(())
    }

    /// A copy of its own, with copies of the graphs inside.
    pub fn clone_graph(&self) -> Result<Arc<Self>> {
        let copy = Self::new();
        let mut ids = BTreeMap::new();
        for old in order(&self.snapshot()).ok_or(Error::InvalidValue)? {
            let operation = match &old.operation {
                Operation::Child(child) => Operation::Child(child.clone_graph()?),
                other => other.clone(),
            };
            let moved = |edge: &Edge| Edge {
                from: ids.get(&edge.from).copied().unwrap_or(0),
                data: edge.data,
            };
            let before = old.before.iter().map(moved).collect();
            let node = copy.insert(operation, before, Some(old.node.id))?;
            ids.insert(old.node.id, node.id);
        }
        let objects = self.nodes().objects.clone();
        {
            let mut nodes = copy.nodes();
            nodes.objects = objects;
            nodes.clone_of = Some(self.id);
        }
        Ok(copy)
    }

    /// The copy of a node in this clone.
    pub fn find_clone(&self, origin: &Node) -> Result<Arc<Node>> {
        let nodes = self.nodes();
        if nodes.clone_of != Some(origin.graph()?.id) {
            return Err(Error::InvalidValue);
        }
        let mut all = nodes.entries.values();
        let found = all.find(|entry| entry.node.origin == Some(origin.id));
        found
            .map(|entry| Arc::clone(&entry.node))
            .ok_or(Error::InvalidValue)
    }

    /// Keeps something alive.
    pub fn retain(&self, reference: Reference, count: u32) {
        let mut nodes = self.nodes();
        let mut all = nodes.objects.iter_mut();
        match all.find(|(kept, _)| kept.object() == reference.object()) {
            Some((_, held)) => *held += u64::from(count),
            None => nodes.objects.push((reference, count.into())),
        }
    }

    /// Gives up `count` of its references to an object.
    pub fn release(&self, object: u64, count: u32) -> Result<()> {
        let mut nodes = self.nodes();
        let at = nodes
            .objects
            .iter()
            .position(|(kept, held)| kept.object() == object && *held >= u64::from(count));
        let at = at.filter(|_| count > 0).ok_or(Error::InvalidValue)?;
        nodes.objects[at].1 -= u64::from(count);
        let gone = (nodes.objects[at].1 == 0).then(|| nodes.objects.swap_remove(at));
        // The last one calls the program: not with a lock held.
        drop(nodes);
        drop(gone);
        Ok(())
    }

    /// What it and the graphs inside keep alive.
    pub fn objects(&self) -> Vec<Reference> {
        let nodes = self.nodes();
        let mut all: Vec<Reference> = nodes.objects.iter().map(|(kept, _)| kept.clone()).collect();
        for entry in nodes.entries.values() {
            if let Operation::Child(child) = &entry.operation {
                all.extend(child.objects());
            }
        }
        all
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nodes in an order in which each comes after what it waits for; the order in which they were made where
/// nothing else is asked. None if they wait for each other in a circle.
pub(crate) fn order(nodes: &[Snapshot]) -> Option<Vec<Snapshot>> {
    let index: BTreeMap<u64, usize> = nodes
        .iter()
        .enumerate()
        .map(|(at, found)| (found.node.id, at))
        .collect();
    let mut open: Vec<usize> = nodes.iter().map(|found| found.before.len()).collect();
    let mut after = vec![Vec::new(); nodes.len()];
    for (at, found) in nodes.iter().enumerate() {
        for edge in &found.before {
            after[*index.get(&edge.from)?].push(at);
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|at| open[*at] == 0).collect();
    let mut sorted = Vec::with_capacity(nodes.len());
    while let Some(at) = ready.pop_first() {
        sorted.push(nodes[at].clone());
        for next in &after[at] {
            open[*next] -= 1;
            if open[*next] == 0 {
                ready.insert(*next);
            }
        }
    }
    (sorted.len() == nodes.len()).then_some(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph_of(edges: &[&[usize]]) -> (Arc<Graph>, Vec<u64>) {
        let graph = Graph::new();
        let mut ids: Vec<u64> = Vec::new();
        for before in edges {
            let before = before.iter().map(|at| Edge::plain(ids[*at])).collect();
            ids.push(graph.add(Operation::Empty, before).unwrap().id);
        }
        (graph, ids)
    }

    #[test]
    fn nodes_come_after_what_they_wait_for_and_circles_have_no_order() {
        let (graph, ids) = graph_of(&[&[], &[], &[0, 1]]);
        graph.connect(&[(ids[0], Edge::plain(ids[1]))]).unwrap();
        let sorted: Vec<u64> = order(&graph.snapshot())
            .unwrap()
            .iter()
            .map(|n| n.node.id)
            .collect();
        assert_eq!(sorted, [ids[1], ids[0], ids[2]]);
        graph.connect(&[(ids[1], Edge::plain(ids[2]))]).unwrap();
        assert!(order(&graph.snapshot()).is_none());
    }

    #[test]
    fn edges_are_added_and_taken_away_together_or_not_at_all() {
        let (graph, ids) = graph_of(&[&[], &[0], &[]]);
        let good = (ids[2], Edge::plain(ids[1]));
        for bad in [
            (ids[1], Edge::plain(ids[0])),
            (ids[2], Edge::plain(ids[2])),
            (ids[2], Edge::plain(u64::MAX)),
            good,
        ] {
            assert_eq!(graph.connect(&[good, bad]), Err(Error::InvalidValue));
        }
        assert!(graph.snapshot()[2].before.is_empty());
        graph.connect(&[good]).unwrap();
        let absent = (ids[0], Edge::plain(ids[1]));
        assert_eq!(graph.disconnect(&[good, absent]), Err(Error::InvalidValue));
        graph.disconnect(&[good]).unwrap();
        assert!(graph.snapshot()[2].before.is_empty());
    }

    #[test]
    fn a_clone_has_nodes_of_its_own_that_know_where_they_come_from() {
        let (graph, ids) = graph_of(&[&[], &[0]]);
        let inner = Graph::new();
        let child = graph
            .add(Operation::Child(inner), vec![Edge::plain(ids[1])])
            .unwrap();
        let copy = graph.clone_graph().unwrap();
        let snapshot = copy.snapshot();
        assert_eq!(snapshot.len(), 3);
        assert_eq!(snapshot[1].before[0].from, snapshot[0].node.id);
        let found = copy.find_clone(&child).unwrap();
        assert_eq!(found.id, snapshot[2].node.id);
        assert!(graph.find_clone(&found).is_err());
    }
}
