//! Nodes of graphs. Whatever a node names is resolved and checked as in the call that would do the same at
//! once.

#![forbid(unsafe_code)]

use cuda_abi::types::{
    CUDA_MEMSET_NODE_PARAMS_v1, CUgraphNodeType as Type, CUlaunchAttributeID, CUmemorytype,
    CUresult, CopySide,
};
use idm_protocol::handle::{Handle, Kind};
use idm_protocol::wire::{
    self, box_kind,
    graph::{Copy, Edge, Fill, Kernel, Side, action},
};
use zerocopy::{FromBytes, IntoBytes};

use super::capture::edges;
use super::copy::{self, corner};
use super::launch::{attribute_value, is_plain};
use super::memop;
use crate::callbacks::{self, Registered};
use crate::driver::{Launch, NodeParams};
use crate::session::{Frame, Outcome, Refusal, Session};

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// Adds a node, or changes what one does.
pub fn vgpuSetNode(
    session: &Session,
    request: &wire::VgpuSetNode,
    frame: &mut Frame<'_>,
) -> Outcome {
    let context = match request.context {
        0 => 0,
        value => session.object(Kind::CONTEXT, value)?.pointer,
    };
    let before = edges::<wire::VgpuSetNode>(session, frame, request.before)?;
    let tail = tail(frame, request)?;
    let mut registered = None;
    let mut params = decode(session, frame, request, tail, &mut registered)?;
    let driver = session.driver();
    let done = match request.action {
        action::ADD => {
            let graph = session.resolve(frame, Kind::GRAPH, request.target)?;
            driver
                .add_node(graph, &before, context, &mut params)
                .map(|node| (node, graph))
        }
        action::SET | action::EXEC => {
            let node = session.resolve(frame, Kind::GRAPH_NODE, request.target)?;
            let graph = session.graphs().parent(Kind::GRAPH_NODE, request.target);
            let graph = session.resolve(frame, Kind::GRAPH, graph)?;
            if request.action == action::SET {
                driver.set_node(node, context, &mut params)
            } else {
                let exec = session.resolve(frame, Kind::GRAPH_EXEC, request.exec)?;
                driver.set_exec_node(exec, node, context, &mut params)
            }
            .map(|()| (node, graph))
        }
        _ => Err(INVALID),
    };
    let (node, graph) = match done {
        Ok(done) => done,
        Err(status) => {
            if let Some(registered) = registered {
                registered.cancel();
            }
            return Err(status.into());
        }
    };
    if let Some(registered) = registered {
        if request.action == action::EXEC {
            let exec = session.resolve(frame, Kind::GRAPH_EXEC, request.exec)?;
            session.execs().keep(exec, registered.number());
        } else {
            registered.tie(session, graph);
        }
    }
    let mut reply = wire::VgpuSetNodeReply { node: 0 };
    if request.action == action::ADD {
        reply.node = session.name(Kind::GRAPH_NODE, node, request.target)?;
    }
    frame.reply(&reply);
    Ok(())
}

/// What follows the edges in a record.
fn tail<'a>(frame: &Frame<'a>, request: &wire::VgpuSetNode) -> Result<&'a [u8], Refusal> {
    let skip = usize::try_from(request.before)
        .ok()
        .and_then(|count| count.checked_mul(size_of::<Edge>()))
        .ok_or(INVALID)?;
    let bytes = match Type(request.kind) {
        Type::CU_GRAPH_NODE_TYPE_KERNEL => {
            let head = skip.checked_add(size_of::<Kernel>()).ok_or(INVALID)?;
            let tail = frame.tail::<wire::VgpuSetNode>(head)?;
            let kernel = Kernel::read_from_bytes(&tail[skip..]).map_err(|_| INVALID)?;
            size_of::<Kernel>()
                .checked_add(usize::try_from(kernel.parameter_bytes).map_err(|_| INVALID)?)
                .ok_or(INVALID)?
        }
        Type::CU_GRAPH_NODE_TYPE_MEMCPY => size_of::<Copy>(),
        Type::CU_GRAPH_NODE_TYPE_MEMSET => size_of::<Fill>(),
        Type::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP => memop::operation_bytes(request.count)?,
        _ => 0,
    };
    let all = skip.checked_add(bytes).ok_or(INVALID)?;
    Ok(&frame.tail::<wire::VgpuSetNode>(all)?[skip..])
}

/// What the node is to do, with all that it names found and checked.
fn decode<'a>(
    session: &Session,
    frame: &Frame<'_>,
    request: &wire::VgpuSetNode,
    tail: &'a [u8],
    registered: &mut Option<Registered>,
) -> Result<NodeParams<'a>, Refusal> {
    Ok(match Type(request.kind) {
        Type::CU_GRAPH_NODE_TYPE_KERNEL => {
            let (head, parameters) = tail.split_at(size_of::<Kernel>());
            let told = Kernel::read_from_bytes(head).map_err(|_| INVALID)?;
            let found = session.object(Kind::FUNCTION, told.function)?.pointer;
            let of_library = Handle::from_value(told.function)
                .is_some_and(|handle| handle.kind() == Kind::KERNEL);
            NodeParams::Kernel {
                function: if of_library { 0 } else { found },
                kernel: if of_library { found } else { 0 },
                shape: Launch {
                    grid: told.grid,
                    block: told.block,
                    shared_bytes: told.shared_bytes,
                },
                parameters,
            }
        }
        Type::CU_GRAPH_NODE_TYPE_MEMCPY => {
            let told = Copy::read_from_bytes(tail).map_err(|_| INVALID)?;
            if told.extent.contains(&0) {
                return Err(INVALID.into());
            }
            let side = |side: &Side| {
                let side = copy::Side {
                    kind: side.kind,
                    place: side.place,
                    at: side.at,
                    pitch: side.pitch,
                    height: side.height,
                };
                corner(session, &side, told.extent)
            };
            let [width, height, depth] = told.extent;
            NodeParams::Copy {
                to: side(&told.to)?,
                from: side(&told.from)?,
                extent: [copy::size(width)?, copy::size(height)?, copy::size(depth)?],
            }
        }
        Type::CU_GRAPH_NODE_TYPE_MEMSET => {
            let told = Fill::read_from_bytes(tail).map_err(|_| INVALID)?;
            NodeParams::Fill(fill(session, &told)?)
        }
        Type::CU_GRAPH_NODE_TYPE_HOST => {
            let context = frame.context().map_or(0, |slot| slot + 1);
            let kept = registered.insert(callbacks::register(session, context, request.handle));
            let (function, data) = kept.parts();
            NodeParams::Host(function, data)
        }
        Type::CU_GRAPH_NODE_TYPE_GRAPH => {
            NodeParams::Child(session.resolve(frame, Kind::GRAPH, request.handle)?)
        }
        Type::CU_GRAPH_NODE_TYPE_EMPTY => NodeParams::Empty,
        Type::CU_GRAPH_NODE_TYPE_WAIT_EVENT => {
            NodeParams::Wait(session.resolve(frame, Kind::EVENT, request.handle)?)
        }
        Type::CU_GRAPH_NODE_TYPE_EVENT_RECORD => {
            NodeParams::Record(session.resolve(frame, Kind::EVENT, request.handle)?)
        }
        Type::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP => {
            NodeParams::MemOps(memop::operations(session, tail)?, request.flags)
        }
        _ => return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED.into()),
    })
}

fn fill(session: &Session, told: &Fill) -> Result<CUDA_MEMSET_NODE_PARAMS_v1, Refusal> {
    let element = told.element_bytes;
    if !matches!(element, 1 | 2 | 4) {
        return Err(INVALID.into());
    }
    if told.width > 0 && told.height > 0 {
        let row = told.width.checked_mul(element.into()).ok_or(INVALID)?;
        let rows = told.pitch.checked_mul(told.height - 1).ok_or(INVALID)?;
        session.check_range(told.to, rows.checked_add(row).ok_or(INVALID)?)?;
    }
    Ok(CUDA_MEMSET_NODE_PARAMS_v1 {
        dst: told.to,
        pitch: copy::size(told.pitch)?,
        value: told.value,
        elementSize: element,
        width: copy::size(told.width)?,
        height: copy::size(told.height)?,
    })
}

/// Tells what a node does.
pub fn vgpuNode(session: &Session, request: &wire::VgpuNode, frame: &mut Frame<'_>) -> Outcome {
    let node = session.resolve(frame, Kind::GRAPH_NODE, request.node)?;
    let driver = session.driver();
    let kind = driver.node_type(node)?;
    let mut reply = wire::VgpuNodeReply {
        kind: kind.0,
        ..wire::VgpuNodeReply::default()
    };
    let mut payload = Vec::new();
    match kind {
        Type::CU_GRAPH_NODE_TYPE_KERNEL => {
            let told = driver.kernel_node(node)?;
            let function = match told.function {
                0 => session.find(Kind::KERNEL, told.kernel),
                pointer => session
                    .find(Kind::FUNCTION, pointer)
                    .or_else(|| session.find(Kind::KERNEL, pointer)),
            };
            let kernel = Kernel {
                // A function of a library that the client has asked for as a kernel only has no handle.
                function: function.ok_or(CUresult::CUDA_ERROR_NOT_SUPPORTED)?,
                grid: told.shape.grid,
                block: told.shape.block,
                shared_bytes: told.shape.shared_bytes,
                parameter_bytes: u32::try_from(told.parameters.len()).map_err(|_| INVALID)?,
            };
            payload.extend_from_slice(kernel.as_bytes());
            payload.extend_from_slice(&told.parameters);
        }
        Type::CU_GRAPH_NODE_TYPE_MEMCPY => {
            let (to, from, [width, height, depth]) = driver.copy_node(node)?;
            let told = Copy {
                to: side(session, &to)?,
                from: side(session, &from)?,
                extent: [width as u64, height as u64, depth as u64],
            };
            payload.extend_from_slice(told.as_bytes());
        }
        Type::CU_GRAPH_NODE_TYPE_MEMSET => {
            let told = driver.fill_node(node)?;
            let fill = Fill {
                to: told.dst,
                pitch: told.pitch as u64,
                width: told.width as u64,
                height: told.height as u64,
                value: told.value,
                element_bytes: told.elementSize,
            };
            payload.extend_from_slice(fill.as_bytes());
        }
        Type::CU_GRAPH_NODE_TYPE_HOST => {
            let number = driver.host_node(node)?;
            reply.handle = callbacks::callback_of(number).ok_or(INVALID)?;
        }
        Type::CU_GRAPH_NODE_TYPE_WAIT_EVENT | Type::CU_GRAPH_NODE_TYPE_EVENT_RECORD => {
            let records = kind == Type::CU_GRAPH_NODE_TYPE_EVENT_RECORD;
            let event = driver.event_node(node, records)?;
            reply.handle = session.find(Kind::EVENT, event).ok_or(INVALID)?;
        }
        Type::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP => {
            let (context, list, flags) = driver.mem_ops_node(node)?;
            reply.context = session.find(Kind::CONTEXT, context).unwrap_or(0);
            reply.flags = flags;
            let words = list.iter().flat_map(|operation| operation.words);
            payload.extend(words.flat_map(u64::to_le_bytes));
        }
        Type::CU_GRAPH_NODE_TYPE_GRAPH => {
            let graph = driver.child_graph(node)?;
            reply.handle = session.name(Kind::GRAPH, graph, request.node)?;
        }
        _ => {}
    }
    if request.with_context != 0 {
        let context = driver.node_context(node)?;
        reply.context = session.find(Kind::CONTEXT, context).unwrap_or(0);
    }
    reply.bytes = u32::try_from(payload.len()).map_err(|_| INVALID)?;
    frame.reply_aside(0, &payload)?;
    frame.reply(&reply);
    Ok(())
}

/// One side of a copy as the client names it.
fn side(session: &Session, corner: &CopySide) -> Result<Side, CUresult> {
    let (kind, place) = match corner.kind {
        CUmemorytype::CU_MEMORYTYPE_ARRAY => {
            let array = usize::try_from(corner.place).map_err(|_| INVALID)?;
            let handle = session.find(Kind::ARRAY, array).ok_or(INVALID)?;
            (box_kind::ARRAY, handle)
        }
        CUmemorytype::CU_MEMORYTYPE_HOST => (box_kind::PINNED, corner.place),
        _ => (box_kind::DEVICE, corner.place),
    };
    Ok(Side {
        place,
        at: corner.at.map(|n| n as u64),
        pitch: corner.pitch as u64,
        height: corner.height as u64,
        kind,
        reserved: 0,
    })
}

/// An attribute of a kernel's node.
pub fn cuGraphKernelNodeGetAttribute(
    session: &Session,
    request: &wire::CuGraphKernelNodeGetAttribute,
    frame: &mut Frame<'_>,
) -> Outcome {
    let node = session.resolve(frame, Kind::GRAPH_NODE, request.node)?;
    let attribute = attribute(request.attribute)?;
    let value = session.driver().node_attribute(node, attribute)?;
    frame.reply(&value.bytes);
    Ok(())
}

/// Sets one.
pub fn cuGraphKernelNodeSetAttribute(
    session: &Session,
    request: &wire::CuGraphKernelNodeSetAttribute,
    frame: &mut Frame<'_>,
) -> Outcome {
    let node = session.resolve(frame, Kind::GRAPH_NODE, request.node)?;
    let attribute = attribute(request.attribute)?;
    let value = attribute_value::<wire::CuGraphKernelNodeSetAttribute>(frame)?;
    Ok(session
        .driver()
        .set_node_attribute(node, attribute, &value)?)
}

/// An attribute whose value holds no handle.
fn attribute(number: u32) -> Result<CUlaunchAttributeID, CUresult> {
    let attribute = CUlaunchAttributeID(number);
    is_plain(attribute)
        .then_some(attribute)
        .ok_or(CUresult::CUDA_ERROR_NOT_SUPPORTED)
}

/// The graph that a node is in.
pub fn cuGraphNodeGetContainingGraph(
    session: &Session,
    request: &wire::CuGraphNodeGetContainingGraph,
    frame: &mut Frame<'_>,
) -> Outcome {
    session.resolve(frame, Kind::GRAPH_NODE, request.hNode)?;
    // A node was named as one of a graph, and stays there.
    let graph = session.graphs().parent(Kind::GRAPH_NODE, request.hNode);
    frame.reply(&wire::CuGraphNodeGetContainingGraphReply { phGraph: graph });
    Ok(())
}

/// The graph inside a node; it goes with the node.
pub fn cuGraphChildGraphNodeGetGraph(
    session: &Session,
    request: &wire::CuGraphChildGraphNodeGetGraph,
    frame: &mut Frame<'_>,
) -> Outcome {
    let node = session.resolve(frame, Kind::GRAPH_NODE, request.hNode)?;
    let graph = session.driver().child_graph(node)?;
    let phGraph = session.name(Kind::GRAPH, graph, request.hNode)?;
    frame.reply(&wire::CuGraphChildGraphNodeGetGraphReply { phGraph });
    Ok(())
}

/// The copy of a node in a clone of its graph.
pub fn cuGraphNodeFindInClone(
    session: &Session,
    request: &wire::CuGraphNodeFindInClone,
    frame: &mut Frame<'_>,
) -> Outcome {
    let node = session.resolve(frame, Kind::GRAPH_NODE, request.hOriginalNode)?;
    let clone = session.resolve(frame, Kind::GRAPH, request.hClonedGraph)?;
    let found = session.driver().find_in_clone(node, clone)?;
    let phNode = session.name(Kind::GRAPH_NODE, found, request.hClonedGraph)?;
    frame.reply(&wire::CuGraphNodeFindInCloneReply { phNode });
    Ok(())
}
