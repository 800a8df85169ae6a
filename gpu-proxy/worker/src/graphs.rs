//! Graphs and their nodes, as the client may name them. Their handles are minted here: nodes come into being
//! by capture and by cloning, without a call that could bring a handle for each (docs/adr/0004).

#![forbid(unsafe_code)]

use std::collections::HashMap;

use cuda_abi::types::CUresult;
use idm_protocol::handle::{ClientTable, HandleLimits, Kind};

use crate::errors::handle_error;

/// The graphs and nodes that a client has been told of.
#[derive(Debug)]
pub struct Graphs {
    table: ClientTable<Named>,
    by_pointer: HashMap<(u8, usize), u64>,
    /// What goes with each: the nodes of a graph, the graph in a node.
    parts: HashMap<u64, Vec<u64>>,
    /// References to user objects that graphs hold, by graph and object.
    held: HashMap<(u64, u64), u32>,
}

#[derive(Debug)]
struct Named {
    pointer: usize,
    parent: u64,
}

impl Graphs {
    /// No names yet.
    pub fn new(limits: HandleLimits) -> Self {
        Self {
            table: ClientTable::new(limits),
            by_pointer: HashMap::new(),
            parts: HashMap::new(),
            held: HashMap::new(),
        }
    }

    /// The handle of a driver's graph or node: the one it has, or a new one. `parent` is the handle of what it
    /// goes with, or 0.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` if the client has too many.
    pub fn name(&mut self, kind: Kind, pointer: usize, parent: u64) -> Result<u64, CUresult> {
        let key = (kind.number(), pointer);
        if let Some(&known) = self.by_pointer.get(&key) {
            return Ok(known);
        }
        let minted = self.table.mint(kind, Named { pointer, parent });
        let handle = minted
            .map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?
            .value();
        self.by_pointer.insert(key, handle);
        if parent != 0 {
            self.parts.entry(parent).or_default().push(handle);
        }
        Ok(handle)
    }

    /// The handle of a driver's graph or node, if it has one.
    pub fn known(&self, kind: Kind, pointer: usize) -> Option<u64> {
        self.by_pointer.get(&(kind.number(), pointer)).copied()
    }

    /// The driver's graph or node.
    ///
    /// # Errors
    /// The driver's error for what is wrong with the handle.
    pub fn resolve(&self, kind: Kind, value: u64) -> Result<usize, CUresult> {
        match self.table.resolve(value, kind) {
            Ok((_, named)) => Ok(named.pointer),
            // What a driver says about graphs and nodes that are none.
            Err(error) => match handle_error(error, kind) {
                CUresult::CUDA_ERROR_INVALID_HANDLE => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
                other => Err(other),
            },
        }
    }

    /// The handle of what a graph or node goes with.
    pub fn parent(&self, kind: Kind, value: u64) -> u64 {
        let found = self.table.resolve(value, kind);
        found.map_or(0, |(_, named)| named.parent)
    }

    /// The graph or node is gone, with all that goes with it.
    pub fn forget(&mut self, kind: Kind, value: u64) {
        let mut gone = vec![(kind, value)];
        while let Some((kind, value)) = gone.pop() {
            let Ok(named) = self.table.remove(value, kind) else {
                continue;
            };
            self.by_pointer.remove(&(kind.number(), named.pointer));
            let inside = match kind {
                Kind::GRAPH => Kind::GRAPH_NODE,
                _ => Kind::GRAPH,
            };
            let parts = self.parts.remove(&value).unwrap_or_default();
            gone.extend(parts.into_iter().map(|part| (inside, part)));
            if let Some(parts) = self.parts.get_mut(&named.parent) {
                parts.retain(|part| *part != value);
            }
            self.held.retain(|(graph, _), _| *graph != value);
        }
    }

    /// Forgets the nodes of a graph that are not among these.
    pub fn keep_only(&mut self, graph: u64, pointers: &[usize]) {
        let parts = self.parts.get(&graph).cloned().unwrap_or_default();
        for node in parts {
            let found = self.resolve(Kind::GRAPH_NODE, node);
            if !found.is_ok_and(|pointer| pointers.contains(&pointer)) {
                self.forget(Kind::GRAPH_NODE, node);
            }
        }
    }

    /// A graph holds `count` more references to an object.
    pub fn hold(&mut self, graph: u64, object: u64, count: u32) {
        let held = self.held.entry((graph, object)).or_default();
        *held = held.saturating_add(count);
    }

    /// A graph gives `count` references up, if it holds as many.
    pub fn release(&mut self, graph: u64, object: u64, count: u32) -> bool {
        let Some(held) = self.held.get_mut(&(graph, object)) else {
            return false;
        };
        match held.checked_sub(count) {
            Some(left) if count > 0 => {
                *held = left;
                true
            }
            _ => false,
        }
    }

    /// A clone holds what the graph holds.
    pub fn clone_held(&mut self, graph: u64, clone: u64) {
        let of_graph = self.held.iter().filter(|((owner, _), _)| *owner == graph);
        let copies: Vec<_> = of_graph
            .map(|((_, object), count)| ((clone, *object), *count))
            .collect();
        self.held.extend(copies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use idm_protocol::layout::Limits;

    fn graphs() -> Graphs {
        Graphs::new(HandleLimits::new(&Limits {
            handles_per_kind: 4,
            ..Limits::default()
        }))
    }

    #[test]
    fn an_object_has_one_name_and_loses_it_with_what_it_goes_with() {
        let mut graphs = graphs();
        let graph = graphs.name(Kind::GRAPH, 10, 0).unwrap();
        let node = graphs.name(Kind::GRAPH_NODE, 11, graph).unwrap();
        let child = graphs.name(Kind::GRAPH, 12, node).unwrap();
        let inner = graphs.name(Kind::GRAPH_NODE, 13, child).unwrap();
        assert_eq!(graphs.name(Kind::GRAPH_NODE, 11, graph), Ok(node));
        assert_eq!(graphs.resolve(Kind::GRAPH_NODE, inner), Ok(13));
        assert_eq!(
            graphs.resolve(Kind::GRAPH, node),
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        );
        graphs.forget(Kind::GRAPH, graph);
        for (kind, gone) in [
            (Kind::GRAPH, graph),
            (Kind::GRAPH_NODE, node),
            (Kind::GRAPH, child),
            (Kind::GRAPH_NODE, inner),
        ] {
            assert!(graphs.resolve(kind, gone).is_err());
        }
        assert_ne!(graphs.name(Kind::GRAPH_NODE, 11, 0), Ok(node));
    }

    #[test]
    fn nodes_that_a_graph_lost_are_forgotten_and_the_others_stay() {
        let mut graphs = graphs();
        let graph = graphs.name(Kind::GRAPH, 10, 0).unwrap();
        let stays = graphs.name(Kind::GRAPH_NODE, 11, graph).unwrap();
        let goes = graphs.name(Kind::GRAPH_NODE, 12, graph).unwrap();
        graphs.keep_only(graph, &[11, 99]);
        assert!(graphs.resolve(Kind::GRAPH_NODE, stays).is_ok());
        assert!(graphs.resolve(Kind::GRAPH_NODE, goes).is_err());
    }

    #[test]
    fn no_more_names_than_the_limit_and_no_more_references_than_held() {
        let mut graphs = graphs();
        for pointer in 0..4 {
            graphs.name(Kind::GRAPH, pointer, 0).unwrap();
        }
        assert!(graphs.name(Kind::GRAPH, 4, 0).is_err());
        graphs.hold(1, 2, 3);
        assert!(graphs.release(1, 2, 2) && !graphs.release(1, 2, 2) && !graphs.release(1, 2, 0));
        graphs.clone_held(1, 5);
        assert!(graphs.release(5, 2, 1) && !graphs.release(5, 2, 1));
    }
}
