//! Graphs made ready to be launched.
//!
//! Nodes are laid out on streams of the graph's own, a node behind one that it waits for, so that branches
//! run at the same time. A launch is a place in the program's stream that the first nodes wait for, and a
//! second one that waits for the last nodes.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_abi::types::CUgraphExecUpdateResult as Update;
use softgpu_core::context::Context;
use softgpu_core::error::{Error, Result};
use softgpu_core::schedule::{StreamId, Ticket};

use crate::driver::{Place, driver};
use crate::graph::object::Reference;
use crate::graph::operation::Ready;
use crate::graph::{Edge, Graph, Operation, Snapshot, order};

/// A graph that can be launched.
pub(crate) struct Exec {
    /// As `cuGraphExecGetId` tells it.
    pub id: u32,
    pub flags: u64,
    state: Mutex<State>,
}

struct State {
    steps: Vec<Step>,
    lanes: Vec<Lane>,
    objects: Vec<Reference>,
    /// End of the last launch: launches of one graph do not overlap.
    last: Option<Ticket>,
}

/// A stream of the graph's own.
struct Lane {
    context: Arc<Context>,
    stream: StreamId,
}

struct Step {
    /// Id of the node in the graph that was instantiated.
    node: u64,
    operation: Operation,
    /// Steps before this one.
    before: Vec<usize>,
    /// None: in the stream that the graph is launched in.
    lane: Option<usize>,
    enabled: bool,
    /// Whether another step comes after it.
    last: bool,
}

/// Why a graph cannot be made ready, or another one not be put in its place.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub error: Error,
    pub update: Update,
    /// Id of the node.
    pub node: Option<u64>,
}

impl From<Error> for Misfit {
    fn from(error: Error) -> Self {
        Self {
            error,
            update: Update::CU_GRAPH_EXEC_UPDATE_ERROR,
            node: None,
        }
    }
}

impl Exec {
    /// Makes a graph ready.
    pub fn new(graph: &Graph, flags: u64) -> Result<Self, Misfit> {
        static LAST: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let mut steps = Vec::new();
        unfold(graph, &[], &mut steps)?;
        check(&steps)?;
        let lanes = lay_out(&mut steps);
        Ok(Self {
            id: LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1,
            flags,
            state: Mutex::new(State {
                steps,
                lanes,
                objects: graph.objects(),
                last: None,
            }),
        })
    }

    /// Submits all of it, behind what is on the stream.
    pub fn launch(&self, place: &Place) -> Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        place.context.check()?;
        let ready = |step: &Step| {
            if step.enabled {
                step.operation.ready(&place.context)
            } else {
                Ok(Ready::Nothing)
            }
        };
        let work: Vec<Ready> = state.steps.iter().map(ready).collect::<Result<_>>()?;
        let begin = place
            .context
            .record_after(place.stream, state.last.as_slice())?
            .ticket();
        let mut tickets: Vec<Ticket> = Vec::with_capacity(work.len());
        for (step, work) in state.steps.iter().zip(work) {
            let mut after: Vec<Ticket> = step.before.iter().map(|at| tickets[*at]).collect();
            if after.is_empty() {
                after.push(begin);
            }
            let lane = step.lane.map(|lane| &state.lanes[lane]);
            let (context, stream) = lane.map_or((&place.context, place.stream), |lane| {
                (&lane.context, lane.stream)
            });
            let ticket = match work {
                Ready::Launch(own, request) => own.launch_after(stream, &after, request)?,
                Ready::Work(own, work) => own.submit_after(stream, &after, work)?,
                Ready::Nothing => context.record_after(stream, &after)?.ticket(),
                Ready::Record(event) => event.record(context, stream, &after)?,
                Ready::Wait(event) => {
                    after.extend(event.recorded()?.map(|record| record.ticket()));
                    context.record_after(stream, &after)?.ticket()
                }
            };
            tickets.push(ticket);
        }
        let ends = state
            .steps
            .iter()
            .zip(&tickets)
            .filter(|(step, _)| step.last);
        let mut ends: Vec<Ticket> = ends.map(|(_, ticket)| *ticket).collect();
        if !state.objects.is_empty() {
            // They outlive the work, whatever becomes of the graph meanwhile.
            let objects = state.objects.clone();
            let work = Box::new(move || drop(objects));
            ends = vec![place.context.submit_after(place.stream, &ends, work)?];
        }
        let end = place.context.record_after(place.stream, &ends)?.ticket();
        state.last = Some(end);
        Ok(())
    }

    /// A graph that does the same, for who captures the launch.
    pub fn as_graph(&self) -> Result<Arc<Graph>> {
        let state = self.state();
        let graph = Graph::new();
        let mut ids = Vec::with_capacity(state.steps.len());
        for step in &state.steps {
            let operation = match &step.operation {
                // What was inside has been unfolded; its end is left.
                Operation::Child(_) => Operation::Empty,
                _ if !step.enabled => Operation::Empty,
                other => other.clone(),
            };
            let before = step.before.iter().map(|at| Edge::plain(ids[*at])).collect();
            ids.push(graph.add(operation, before)?.id);
        }
        for object in &state.objects {
            graph.retain(object.clone(), 1);
        }
        Ok(graph)
    }

    /// Takes over what the nodes of another graph do, if it has the same nodes in the same places.
    pub fn update(&self, graph: &Graph) -> Result<(), Misfit> {
        let mut other = Vec::new();
        unfold(graph, &[], &mut other)?;
        let mut state = self.state();
        let misfit = |update, node| Misfit {
            error: Error::GraphExecUpdateFailure,
            update,
            node,
        };
        if other.len() != state.steps.len() {
            let node = other.get(state.steps.len()).map(|step| step.node);
            return Err(misfit(
                Update::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED,
                node,
            ));
        }
        for (mine, theirs) in state.steps.iter().zip(&other) {
            let node = Some(theirs.node);
            if mine.operation.kind() != theirs.operation.kind() {
                let changed = Update::CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
                return Err(misfit(changed, node));
            }
            if mine.before != theirs.before {
                let changed = Update::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
                return Err(misfit(changed, node));
            }
            if !fits(&mine.operation, &theirs.operation) {
                let changed = Update::CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
                return Err(misfit(changed, node));
            }
        }
        check(&other).map_err(|found| {
            misfit(
                Update::CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED,
                found.node,
            )
        })?;
        for (mine, theirs) in state.steps.iter_mut().zip(other) {
            mine.operation = theirs.operation;
        }
        state.objects = graph.objects();
        Ok(())
    }

    /// Changes what one node does.
    pub fn set_operation(&self, node: u64, operation: Operation) -> Result<()> {
        let mut state = self.state();
        let step = state.step(node)?;
        if step.operation.kind() != operation.kind() || !fits(&step.operation, &operation) {
            return Err(Error::InvalidValue);
        }
        step.operation = operation;
        Ok(())
    }

    /// Changes what the nodes of a graph inside do.
    pub fn set_child(&self, before: &Graph, after: &Graph) -> Result<()> {
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let invalid = |_| Error::InvalidValue;
        unfold(before, &[], &mut old).map_err(invalid)?;
        unfold(after, &[], &mut new).map_err(invalid)?;
        check(&new).map_err(invalid)?;
        let same = |(old, new): (&Step, &Step)| {
            old.before == new.before
                && old.operation.kind() == new.operation.kind()
                && fits(&old.operation, &new.operation)
        };
        if old.len() != new.len() || !old.iter().zip(&new).all(same) {
            return Err(Error::InvalidValue);
        }
        let mut state = self.state();
        if !old.iter().all(|step| state.step(step.node).is_ok()) {
            return Err(Error::InvalidValue);
        }
        for (old, new) in old.iter().zip(new) {
            state.step(old.node)?.operation = new.operation;
        }
        state.objects.extend(after.objects());
        Ok(())
    }

    /// Whether a node runs. Only kernels, copies and fills can be switched off.
    pub fn is_enabled(&self, node: u64) -> Result<bool> {
        Ok(self.state().switchable(node)?.enabled)
    }

    /// Switches a node on or off.
    pub fn set_enabled(&self, node: u64, enabled: bool) -> Result<()> {
        self.state().switchable(node)?.enabled = enabled;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        // Work on them is still done.
        if let Ok(driver) = driver() {
            for lane in &self.state().lanes {
                driver.gpu.scheduler().close(lane.stream);
            }
        }
    }
}

impl State {
    fn step(&mut self, node: u64) -> Result<&mut Step> {
        let mut all = self.steps.iter_mut();
        all.find(|step| step.node == node)
            .ok_or(Error::InvalidValue)
    }

    fn switchable(&mut self, node: u64) -> Result<&mut Step> {
        let step = self.step(node)?;
        match step.operation {
            Operation::Kernel(_) | Operation::Copy(..) | Operation::Fill(..) => Ok(step),
            _ => Err(Error::InvalidValue),
        }
    }
}

/// Appends a graph's nodes to the steps, each behind what it waits for; the first ones behind `before`.
/// Graphs inside are unfolded, an empty step of their node's behind them.
fn unfold(graph: &Graph, before: &[usize], steps: &mut Vec<Step>) -> Result<(), Misfit> {
    let sorted = order(&graph.snapshot()).ok_or(Error::InvalidValue)?;
    let mut places: HashMap<u64, usize> = HashMap::new();
    for Snapshot {
        node,
        operation,
        before: edges,
    } in sorted
    {
        let mut wanted: Vec<usize> = edges
            .iter()
            .filter_map(|edge| places.get(&edge.from).copied())
            .collect();
        wanted.sort_unstable();
        if wanted.is_empty() {
            wanted.extend_from_slice(before);
        }
        if let Operation::Child(child) = &operation {
            let first = steps.len();
            unfold(child, &wanted, steps)?;
            let inner = first..steps.len();
            let ends = inner.clone().filter(|at| {
                !steps[inner.clone()]
                    .iter()
                    .any(|step| step.before.contains(at))
            });
            let ends: Vec<usize> = ends.collect();
            if !ends.is_empty() {
                wanted = ends;
            }
        }
        places.insert(node.id, steps.len());
        steps.push(Step {
            node: node.id,
            operation,
            before: wanted,
            lane: None,
            enabled: true,
            last: true,
        });
    }
    Ok(())
}

/// Whether every step could run.
fn check(steps: &[Step]) -> Result<(), Misfit> {
    for step in steps {
        let Some(context) = step.operation.context() else {
            continue;
        };
        let ready = context.check().and_then(|()| step.operation.ready(context));
        ready.map_err(|error| Misfit {
            error,
            update: Update::CU_GRAPH_EXEC_UPDATE_ERROR,
            node: Some(step.node),
        })?;
    }
    Ok(())
}

/// Gives each step a stream: that of a step which it waits for, if no other step follows there yet.
fn lay_out(steps: &mut [Step]) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = Vec::new();
    // The step at the end of each lane.
    let mut tails: Vec<usize> = Vec::new();
    for at in 0..steps.len() {
        let before = steps[at].before.clone();
        for earlier in &before {
            steps[*earlier].last = false;
        }
        let context = steps[at].operation.context().cloned();
        let follows = |lane: &usize| {
            before.contains(&tails[*lane])
                && context
                    .as_ref()
                    .is_none_or(|own| own.id() == lanes[*lane].context.id())
        };
        let lane = (0..lanes.len()).find(follows).or_else(|| {
            let context = context.as_ref()?;
            lanes.push(Lane {
                context: Arc::clone(context),
                stream: context.create_stream(true),
            });
            tails.push(at);
            Some(lanes.len() - 1)
        });
        if let Some(lane) = lane {
            tails[lane] = at;
        }
        steps[at].lane = lane;
    }
    lanes
}

/// Whether an operation may take another one's place without making the graph anew.
fn fits(old: &Operation, new: &Operation) -> bool {
    let same_context = match (old.context(), new.context()) {
        (Some(old), Some(new)) => old.id() == new.id(),
        _ => true,
    };
    same_context
        && match (old, new) {
            (Operation::Copy(_, old), Operation::Copy(_, new)) => old.has_shape_of(new),
            (Operation::Fill(_, old), Operation::Fill(_, new)) => old.has_shape_of(new),
            _ => true,
        }
}
