//! A block: its warps, its shared memory and its barriers, run in turns on one OS thread.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "lane and warp numbers are small"
)]

use super::AddressSpace;
use super::fault::FaultKind;
use super::grid::Shape;
use super::interpret::{Cursor, Event, execute};
use super::memory::{Spans, View, lanes};
use super::print;
use super::register::{first_active, set_uniform};
use super::warp::{Path, State, Warp};
use crate::ptx::ir::*;

/// Instructions a warp executes before the next one has its turn.
const WARP_FUEL: u64 = 1 << 13;
/// Instructions that the paths of a warp that are behind may execute until one that waits for them to catch up has
/// its turn after all: they may be waiting for what it does. Code that counts on lanes meeting again, as they do on
/// a GPU, computes wrong results where this is too short for what some lanes do alone.
const PATIENCE: u64 = 1 << 15;
/// Deepest call stack.
const MAX_DEPTH: u32 = 4096;

/// A fault and where it happened.
#[derive(Debug)]
pub struct BlockFault {
    pub kind: FaultKind,
    pub thread: u32,
    pub pc: u32,
}

/// How a turn of a block ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    Finished,
    /// The budget is spent.
    Paused,
}

#[derive(Debug, Clone)]
struct Barrier {
    /// Lanes that have arrived, by warp.
    arrived: [u32; 32],
    /// Threads to wait for; 0 for all.
    count: u32,
    popc: u32,
    all: bool,
    any: bool,
}

const IDLE: Barrier = Barrier {
    arrived: [0; 32],
    count: 0,
    popc: 0,
    all: true,
    any: false,
};

#[derive(Debug)]
pub struct Block {
    index: [u32; 3],
    warps: Vec<Warp>,
    shared: Vec<u8>,
    barriers: Vec<Barrier>,
    /// The barriers that threads have arrived at and that are not complete, a bit each.
    arrivals: u32,
    spans: Spans,
    pub instructions: u64,
}

impl Block {
    pub fn new(shape: &Shape<'_>) -> Self {
        Self {
            index: [0; 3],
            warps: (0..shape.threads.div_ceil(32))
                .map(|warp| Warp::new(shape, warp))
                .collect(),
            shared: vec![0; shape.shared_extent()],
            barriers: vec![IDLE; 16],
            arrivals: 0,
            spans: Spans::default(),
            instructions: 0,
        }
    }

    pub fn start(&mut self, shape: &Shape<'_>, index: [u32; 3]) {
        self.index = index;
        if std::mem::take(&mut self.arrivals) != 0 {
            self.barriers.fill(IDLE);
        }
        // The system's part is empty at first; a kernel's own holds what the block before it left.
        if let Some(start) = shape.reserved_shared {
            self.shared[start as usize..].fill(0);
        }
        for warp in &mut self.warps {
            warp.start(shape, index);
        }
    }

    pub fn index(&self) -> [u32; 3] {
        self.index
    }

    /// Runs all warps in turns until they have finished or `budget` instructions are spent.
    pub fn run(
        &mut self,
        shape: &Shape<'_>,
        space: &dyn AddressSpace,
        budget: u64,
    ) -> Result<Turn, BlockFault> {
        let limit = self.instructions + budget;
        loop {
            let (mut runnable, mut live) = (false, false);
            for warp in 0..self.warps.len() {
                live |= self.warps[warp].live != 0;
                if self.warps[warp]
                    .paths
                    .iter()
                    .any(|path| !matches!(path.state, State::Barrier(_)))
                {
                    runnable = true;
                    self.run_warp(shape, space, warp)?;
                }
            }
            if !live {
                return Ok(Turn::Finished);
            }
            if !runnable {
                // Every thread waits at a barrier that can never complete: a device would hang.
                let warp = self.warps.iter().find(|warp| !warp.paths.is_empty());
                let path = warp.and_then(|warp| warp.paths.first().map(|path| (warp.index, path)));
                let (thread, pc) = path.map_or((0, 0), |(index, path)| {
                    (index * 32 + path.mask.trailing_zeros(), path.pc)
                });
                return Err(BlockFault {
                    kind: FaultKind::RunAway,
                    thread,
                    pc,
                });
            }
            if self.instructions >= limit {
                return Ok(Turn::Paused);
            }
        }
    }

    /// One turn of a warp.
    fn run_warp(
        &mut self,
        shape: &Shape<'_>,
        space: &dyn AddressSpace,
        index: usize,
    ) -> Result<(), BlockFault> {
        let mut fuel = WARP_FUEL;
        while fuel > 0 {
            let Some(place) = self.choose(index) else {
                return Ok(());
            };
            let module = shape.launch.module;
            let warp = &mut self.warps[index];
            let path = warp.paths[place];
            // What waits at a barrier or for lanes that it names does not wait for a turn.
            let ready = warp.paths.iter().filter(|path| path.state == State::Ready);
            let alone = ready.count() == 1;
            if alone {
                warp.waited = 0;
            }
            let granted = fuel.min(PATIENCE - warp.waited);
            let stop = warp
                .paths
                .iter()
                .filter(|other| {
                    other.frame == path.frame
                        && other.pc > path.pc
                        && !matches!(other.state, State::Barrier(_))
                })
                .map(|other| other.pc)
                .min()
                .unwrap_or(u32::MAX);
            let mut cursor = Cursor {
                code: &module.code,
                pc: path.pc,
                mask: path.mask,
                live: warp.live,
                fuel: granted,
                charged: 0,
                stop,
                forced: path.forced,
                clock: shape.launch.clock,
            };
            let mut view = View {
                space,
                shared: &mut self.shared,
                local: &mut warp.local,
                stride: warp.stride,
                params: shape.launch.params,
                spans: &mut self.spans,
            };
            let event = execute(&mut cursor, &mut warp.frames[path.frame], &mut view);
            let spent = granted - cursor.fuel;
            let (pc, forced) = (cursor.pc, cursor.forced);
            fuel = fuel.saturating_sub(spent.max(1));
            self.instructions += spent - cursor.charged;
            let path = &mut warp.paths[place];
            path.pc = pc;
            path.forced = forced;
            if !alone {
                warp.waited += spent;
                if warp.waited >= PATIENCE {
                    warp.waited = 0;
                    warp.turn = warp.turn.wrapping_add(1) | 1;
                }
            }
            if matches!(event, Event::Yield) {
                fuel = 0;
            }
            self.handle(shape, space, index, place, event)
                .map_err(|(lane, kind)| BlockFault {
                    kind,
                    thread: (index * 32 + lane) as u32,
                    pc,
                })?;
        }
        Ok(())
    }

    /// Joins paths that have met and picks the one to run: the deepest and, there, the one that is
    /// furthest behind; when the others have waited long enough, the next one in order.
    fn choose(&mut self, index: usize) -> Option<usize> {
        let warp = &mut self.warps[index];
        if warp.paths.len() > 1 {
            let mut first = 0;
            while first < warp.paths.len() {
                let mut second = first + 1;
                while second < warp.paths.len() {
                    let (a, b) = (warp.paths[first], warp.paths[second]);
                    let waits = |path: Path| matches!(path.state, State::Barrier(_));
                    if a.pc == b.pc && a.frame == b.frame && !waits(a) && !waits(b) {
                        let joined = &mut warp.paths[first];
                        joined.mask |= b.mask;
                        joined.state = State::Ready;
                        joined.forced = a.forced && b.forced;
                        warp.paths.swap_remove(second);
                    } else {
                        second += 1;
                    }
                }
                first += 1;
            }
        }
        let ready = |path: &Path| path.state == State::Ready;
        if warp.turn & 1 == 1 {
            warp.turn = warp.turn.wrapping_add(1);
            let count = warp.paths.len();
            let start = warp.turn / 2;
            let next = (0..count)
                .map(|step| (start + step) % count)
                .find(|&place| ready(&warp.paths[place]));
            if next.is_some() {
                return next;
            }
        }
        let frames = &warp.frames;
        let chosen = warp
            .paths
            .iter()
            .enumerate()
            .filter(|(_, path)| ready(path))
            .min_by_key(|(_, path)| (u32::MAX - frames[path.frame].depth, path.pc))
            .map(|(place, _)| place);
        if chosen.is_some() {
            return chosen;
        }
        // Nobody else can come: what waits for lanes of this warp goes on with those that are there.
        let waiting = warp
            .paths
            .iter()
            .position(|path| matches!(path.state, State::Gathering(_)))?;
        let path = &mut warp.paths[waiting];
        path.state = State::Ready;
        path.forced = true;
        Some(waiting)
    }

    fn handle(
        &mut self,
        shape: &Shape<'_>,
        space: &dyn AddressSpace,
        index: usize,
        place: usize,
        event: Event,
    ) -> Result<(), (usize, FaultKind)> {
        let module = shape.launch.module;
        let warp = &mut self.warps[index];
        match event {
            Event::Pause => {}
            Event::Yield => warp.turn |= 1,
            Event::Fault { lane, kind } => return Err((lane, *kind)),
            Event::Diverge { active, target } => {
                let taken = split(warp, place, active);
                warp.paths[taken].pc = target;
            }
            Event::Scatter {
                active,
                table,
                index,
            } => {
                let values = warp.frames[warp.paths[place].frame].w[index.index()];
                let table = &module.tables[table as usize];
                let going = split(warp, place, active);
                while warp.paths[going].mask != 0 {
                    let path = warp.paths[going];
                    let value = first_active(&values, path.mask);
                    let same = lanes(path.mask).filter(|&lane| values[lane] == value);
                    let same = same.fold(0, |bits, lane| bits | 1 << lane);
                    let Some(&target) = table.get(value as usize) else {
                        return Err((
                            path.mask.trailing_zeros() as usize,
                            FaultKind::IllegalInstruction,
                        ));
                    };
                    if same == path.mask {
                        warp.paths[going].pc = target;
                        break;
                    }
                    warp.paths[going].mask &= !same;
                    warp.paths.push(Path {
                        mask: same,
                        pc: target,
                        ..path
                    });
                }
            }
            Event::Call { active, site } => {
                return self.call(shape, space, index, place, active, site);
            }
            Event::Return { active } => self.leave(shape, index, place, active)?,
            Event::Exit { active } => {
                let leaving = split(warp, place, active);
                let frame = warp.paths[leaving].frame;
                warp.paths.swap_remove(leaving);
                warp.live &= !active;
                let mut frame = Some(frame);
                while let Some(current) = frame {
                    warp.frames[current].lanes &= !active;
                    frame = warp.frames[current]
                        .caller
                        .filter(|_| warp.frames[current].depth > 0);
                    if warp.frames[current].lanes == 0 && warp.frames[current].depth > 0 {
                        warp.free.push(current);
                    }
                }
                self.complete_barriers(shape);
            }
            Event::Gather { active, wanted } => {
                let waiting = split(warp, place, active);
                warp.paths[waiting].state = State::Gathering(wanted);
            }
            Event::WarpSync { active, wanted } => {
                let waiting = split(warp, place, active);
                warp.paths[waiting].state = State::Gathering(wanted);
                let at_sync = |path: &Path| {
                    matches!(path.state, State::Gathering(_))
                        && matches!(module.code[path.pc as usize].op, Op::WarpSync { .. })
                };
                let arrived = warp
                    .paths
                    .iter()
                    .filter(|path| at_sync(path))
                    .fold(0, |bits, path| bits | path.mask);
                for path in warp.paths.iter_mut().filter(|path| at_sync(path)) {
                    if matches!(path.state, State::Gathering(wanted) if wanted & !arrived == 0) {
                        path.pc += 1;
                        path.state = State::Ready;
                    }
                }
            }
            Event::Stack { active } => stack(module, warp, place, active)?,
            Event::Barrier { active } => self.arrive(shape, index, place, active)?,
        }
        Ok(())
    }

    fn arrive(
        &mut self,
        shape: &Shape<'_>,
        index: usize,
        place: usize,
        active: u32,
    ) -> Result<(), (usize, FaultKind)> {
        let warp = &mut self.warps[index];
        let pc = warp.paths[place].pc;
        let Op::Barrier {
            f, id, count, p, ..
        } = shape.launch.module.code[pc as usize].op
        else {
            return Ok(());
        };
        let frame = &warp.frames[warp.paths[place].frame];
        let illegal = (
            active.trailing_zeros() as usize,
            FaultKind::IllegalInstruction,
        );
        let number = first_active(&frame.w[id.index()], active) as usize;
        let barrier = self
            .barriers
            .get_mut(number)
            .ok_or_else(|| illegal.clone())?;
        let wanted = count.map_or(0, |count| first_active(&frame.w[count.index()], active));
        if count.is_some() && (wanted == 0 || !wanted.is_multiple_of(32)) {
            return Err(illegal);
        }
        barrier.count = wanted;
        barrier.arrived[index] |= active;
        self.arrivals |= 1 << number;
        if let Some(p) = p {
            let negate = match f {
                BarrierOp::Popc { negate }
                | BarrierOp::And { negate }
                | BarrierOp::Or { negate } => negate,
                _ => false,
            };
            let bits = frame.p[p.index()] ^ if negate { u32::MAX } else { 0 };
            barrier.popc += (bits & active).count_ones();
            barrier.all &= bits & active == active;
            barrier.any |= bits & active != 0;
        }
        let waiting = split(warp, place, active);
        if f == BarrierOp::Arrive {
            warp.paths[waiting].pc = pc + 1;
        } else {
            warp.paths[waiting].pc = pc;
            warp.paths[waiting].state = State::Barrier(number);
        }
        self.complete_barriers(shape);
        Ok(())
    }

    /// Releases every barrier that all expected threads have reached.
    fn complete_barriers(&mut self, shape: &Shape<'_>) {
        for number in lanes(self.arrivals) {
            let barrier = &self.barriers[number];
            let complete = if barrier.count == 0 {
                self.warps
                    .iter()
                    .zip(barrier.arrived)
                    .all(|(warp, arrived)| warp.live & !arrived == 0)
            } else {
                // A warp counts as 32 threads once all lanes it has left are there.
                let threads = self
                    .warps
                    .iter()
                    .zip(barrier.arrived)
                    .map(|(warp, arrived)| {
                        if arrived != 0 && warp.live & !arrived == 0 {
                            32
                        } else {
                            arrived.count_ones()
                        }
                    });
                threads.sum::<u32>() >= barrier.count
            };
            if !complete {
                continue;
            }
            self.arrivals &= !(1 << number);
            let barrier = std::mem::replace(&mut self.barriers[number], IDLE);
            for warp in &mut self.warps {
                for path in warp
                    .paths
                    .iter_mut()
                    .filter(|path| path.state == State::Barrier(number))
                {
                    if let Op::Barrier { f, d: Some(d), .. } =
                        shape.launch.module.code[path.pc as usize].op
                    {
                        let value = match f {
                            BarrierOp::Popc { .. } => barrier.popc,
                            BarrierOp::And { .. } => u32::from(barrier.all),
                            _ => u32::from(barrier.any),
                        };
                        set_uniform(&mut warp.frames[path.frame], d, value.into(), path.mask);
                    }
                    path.state = State::Ready;
                    path.pc += 1;
                }
            }
        }
    }

    fn call(
        &mut self,
        shape: &Shape<'_>,
        space: &dyn AddressSpace,
        index: usize,
        place: usize,
        active: u32,
        site: u32,
    ) -> Result<(), (usize, FaultKind)> {
        let module = shape.launch.module;
        let site = &module.calls[site as usize];
        let warp = &mut self.warps[index];
        let (pc, caller) = (warp.paths[place].pc, warp.paths[place].frame);
        let (function, active) = match site.target {
            CallTarget::Function(function) => (function, active),
            CallTarget::Builtin(builtin) => {
                let base = warp.frames[caller].local;
                let mut view = View {
                    space,
                    shared: &mut self.shared,
                    local: &mut warp.local,
                    stride: warp.stride,
                    params: shape.launch.params,
                    spans: &mut self.spans,
                };
                for lane in lanes(active) {
                    print::builtin(shape, &mut view, builtin, site, base, lane)
                        .map_err(|kind| (lane, kind))?;
                }
                warp.paths[place].pc = pc + 1;
                return Ok(());
            }
            CallTarget::Indirect => {
                let Op::Call {
                    target: Some(pointer),
                    ..
                } = module.code[pc as usize].op
                else {
                    return Ok(());
                };
                let values = warp.frames[caller].d[pointer.index()];
                let lane = active.trailing_zeros() as usize & 31;
                let address = values[lane];
                let same = lanes(active)
                    .filter(|&lane| values[lane] == address)
                    .fold(0, |bits, lane| bits | 1 << lane);
                let invalid = (lane, FaultKind::InvalidPc { address });
                let number = address.wrapping_sub(FUNCTION_WINDOW);
                let function = u32::try_from(number / 16)
                    .ok()
                    .filter(|_| number.is_multiple_of(16));
                let function = function.filter(|&function| {
                    let found = module.functions.get(function as usize);
                    let kernel = module
                        .kernels
                        .iter()
                        .any(|kernel| kernel.function == function);
                    let same = |slots: &[Slot], params: &[Param]| {
                        slots.len() == params.len()
                            && slots
                                .iter()
                                .zip(params)
                                .all(|(slot, param)| slot.size == param.size)
                    };
                    found.is_some_and(|found| {
                        !kernel
                            && same(&site.arguments, &found.params)
                            && same(&site.results, &found.returns)
                    })
                });
                (function.ok_or(invalid)?, same)
            }
        };
        let lane = active.trailing_zeros() as usize & 31;
        let code = &module.functions[function as usize];
        let (depth, local) = (warp.frames[caller].depth + 1, warp.frames[caller].local);
        let own = module.functions[warp.frames[caller].function as usize]
            .local_bytes
            .next_multiple_of(16);
        let local_callee = local + own;
        let end = u64::from(local_callee) + u64::from(code.local_bytes);
        let ceiling = lanes(active).map(|lane| warp.tops[lane]).min();
        if depth > MAX_DEPTH || end > u64::from(ceiling.unwrap_or(0)) {
            return Err((lane, FaultKind::StackOverflow));
        }
        for lane in lanes(active) {
            let start = lane * warp.stride;
            for (slot, param) in site.arguments.iter().zip(&code.params) {
                let from = start + (local + slot.offset) as usize;
                let to = start + (local_callee + param.offset) as usize;
                warp.local.copy_within(from..from + slot.size as usize, to);
            }
        }
        let frame = warp.enter(shape, function, self.index);
        let entered = &mut warp.frames[frame];
        entered.lanes = active;
        entered.caller = Some(caller);
        entered.call_pc = pc;
        entered.depth = depth;
        entered.local = local_callee;
        entered.tops = warp.tops;
        let indirect = site.target == CallTarget::Indirect;
        let going = split(warp, place, active);
        if going != place && indirect {
            // The others may still have to call: their guard or pointer is looked at again.
            let guard = module.code[pc as usize].guard;
            let bits = guard
                .predicate
                .map_or(u32::MAX, |p| warp.frames[caller].p[p.index()]);
            let bits = if guard.negate { !bits } else { bits };
            if warp.paths[place].mask & bits != 0 {
                warp.paths[place].pc = pc;
            }
        }
        let path = &mut warp.paths[going];
        path.pc = code.start;
        path.frame = frame;
        Ok(())
    }

    fn leave(
        &mut self,
        shape: &Shape<'_>,
        index: usize,
        place: usize,
        active: u32,
    ) -> Result<(), (usize, FaultKind)> {
        let module = shape.launch.module;
        let warp = &mut self.warps[index];
        let frame = warp.paths[place].frame;
        let Some(caller) = warp.frames[frame]
            .caller
            .filter(|_| warp.frames[frame].depth > 0)
        else {
            return Err((
                active.trailing_zeros() as usize,
                FaultKind::IllegalInstruction,
            ));
        };
        let (call_pc, callee_local) = (warp.frames[frame].call_pc, warp.frames[frame].local);
        let local = warp.frames[caller].local;
        let returns = &module.functions[warp.frames[frame].function as usize].returns;
        if let Op::Call { site, .. } = module.code[call_pc as usize].op {
            for lane in lanes(active) {
                let start = lane * warp.stride;
                for (slot, param) in module.calls[site as usize].results.iter().zip(returns) {
                    let from = start + (callee_local + param.offset) as usize;
                    let to = start + (local + slot.offset) as usize;
                    warp.local.copy_within(from..from + slot.size as usize, to);
                }
            }
        }
        for lane in lanes(active) {
            warp.tops[lane] = warp.frames[frame].tops[lane];
        }
        let going = split(warp, place, active);
        warp.paths[going].pc = call_pc + 1;
        warp.paths[going].frame = caller;
        warp.frames[frame].lanes &= !active;
        if warp.frames[frame].lanes == 0 {
            warp.free.push(frame);
        }
        Ok(())
    }
}

/// Allocates or releases memory at the end of each lane's local memory.
fn stack(
    module: &Module,
    warp: &mut Warp,
    place: usize,
    active: u32,
) -> Result<(), (usize, FaultKind)> {
    let path = &mut warp.paths[place];
    let frame = &mut warp.frames[path.frame];
    if let Op::Stack { f, a, d } = module.code[path.pc as usize].op {
        let own = module.functions[frame.function as usize].local_bytes;
        let floor = u64::from(frame.local) + u64::from(own);
        for lane in lanes(active) {
            let operand = a.map_or(0, |a| frame.d[a.index()][lane]);
            let top = &mut warp.tops[lane];
            let wanted = match f {
                StackOp::Allocate { align } => u64::from(*top)
                    .checked_sub(operand)
                    .map(|address| address & !u64::from(align - 1)),
                StackOp::Save => Some(u64::from(*top)),
                StackOp::Restore => Some(operand).filter(|&end| end <= warp.stride as u64),
            };
            match wanted.filter(|&address| address >= floor) {
                Some(address) => *top = address as u32,
                None => return Err((lane, FaultKind::StackOverflow)),
            }
            if let Some(d) = d {
                frame.d[d.index()][lane] = u64::from(*top);
            }
        }
    }
    path.pc += 1;
    Ok(())
}

/// Makes the active lanes of a path a path of their own and sends the others to the next
/// instruction. Returns where the active ones are.
fn split(warp: &mut Warp, place: usize, active: u32) -> usize {
    let path = warp.paths[place];
    if path.mask == active {
        return place;
    }
    warp.paths[place].mask &= !active;
    warp.paths[place].pc += 1;
    warp.paths.push(Path {
        mask: active,
        ..path
    });
    warp.paths.len() - 1
}
