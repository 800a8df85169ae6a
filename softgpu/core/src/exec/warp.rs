//! The state of a warp: registers, frames and the paths its lanes have taken.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "constants are cut to the width of their register"
)]

use super::grid::Shape;
use super::lanes::Row;
use crate::ptx::ir::*;

/// Every lane.
pub const FULL: u32 = u32::MAX;

/// An activation of a function: its registers for all lanes.
#[derive(Debug)]
pub struct Frame {
    pub function: u32,
    /// What of its preloads changes from block to block.
    varying: Vec<Preload>,
    pub w: Vec<Row<u32>>,
    pub d: Vec<Row<u64>>,
    pub p: Vec<u32>,
    /// Slots through which matrix instructions get their operands; none before the first of them.
    pub stage: Vec<[u64; 32]>,
    /// Lanes that have not returned yet.
    pub lanes: u32,
    pub caller: Option<usize>,
    /// The call instruction in the caller.
    pub call_pc: u32,
    pub depth: u32,
    /// Where the frame starts in each lane's local memory.
    pub local: u32,
    /// The warp's `tops` when the function was entered.
    pub tops: [u32; 32],
}

/// What a path is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    /// At an instruction that waits for the lanes of a mask.
    Gathering(u32),
    /// At a block barrier.
    Barrier(usize),
}

/// Lanes of a warp that are at one place.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    pub mask: u32,
    pub pc: u32,
    pub frame: usize,
    pub state: State,
    /// Do not wait for other lanes: none can come.
    pub forced: bool,
}

#[derive(Debug)]
pub struct Warp {
    pub index: u32,
    pub frames: Vec<Frame>,
    /// Frames not in use.
    pub free: Vec<usize>,
    pub paths: Vec<Path>,
    /// Lanes that have not exited.
    pub live: u32,
    /// The lanes the warp has at all.
    pub lanes: u32,
    pub local: Vec<u8>,
    pub stride: usize,
    /// Where each lane's local memory ends for frames: above lies what threads have allocated.
    pub tops: [u32; 32],
    /// Path to be preferred once, so that none starves.
    pub turn: usize,
    /// Instructions since the lanes were together or another path had its turn.
    pub waited: u64,
}

impl Warp {
    pub fn new(shape: &Shape<'_>, index: u32) -> Self {
        let first = index * 32;
        let count = (shape.threads - first).min(32);
        let lanes = if count == 32 { FULL } else { (1 << count) - 1 };
        let stride = shape.local_bytes as usize;
        let mut warp = Self {
            index,
            frames: Vec::new(),
            free: Vec::new(),
            paths: Vec::new(),
            live: 0,
            lanes,
            local: vec![0; stride * 32],
            stride,
            tops: [shape.local_bytes; 32],
            turn: 0,
            waited: 0,
        };
        let mut frame = new_frame(shape, shape.launch.kernel.function);
        fill(&mut frame, shape, index);
        warp.frames.push(frame);
        warp
    }

    /// Puts all lanes at the kernel's start.
    pub fn start(&mut self, shape: &Shape<'_>, block: [u32; 3]) {
        let kernel = shape.launch.kernel.function;
        self.live = self.lanes;
        self.tops = [shape.local_bytes; 32];
        self.paths.clear();
        self.free.clear();
        self.free.extend(1..self.frames.len());
        let frame = &mut self.frames[0];
        frame.lanes = self.lanes;
        fill_block(frame, shape, block);
        let pc = shape.launch.module.functions[kernel as usize].start;
        self.paths.push(Path {
            mask: self.lanes,
            pc,
            frame: 0,
            state: State::Ready,
            forced: false,
        });
    }

    /// A frame for `function`, from those not in use if one fits.
    pub fn enter(&mut self, shape: &Shape<'_>, function: u32, block: [u32; 3]) -> usize {
        let found = self
            .free
            .iter()
            .position(|&frame| self.frames[frame].function == function);
        let index = match found {
            Some(place) => self.free.swap_remove(place),
            None => {
                let mut frame = new_frame(shape, function);
                fill(&mut frame, shape, self.index);
                self.frames.push(frame);
                self.frames.len() - 1
            }
        };
        fill_block(&mut self.frames[index], shape, block);
        index
    }
}

fn new_frame(shape: &Shape<'_>, function: u32) -> Frame {
    let code = &shape.launch.module.functions[function as usize];
    let counts = code.registers;
    let varies = |preload: &&Preload| {
        matches!(
            preload.value,
            Constant::Special(Special::Ctaid(_) | Special::SmId)
        )
    };
    Frame {
        function,
        varying: code.preloads.iter().filter(varies).copied().collect(),
        w: vec![Row([0; 32]); usize::from(counts.w)],
        d: vec![Row([0; 32]); usize::from(counts.d)],
        p: vec![0; usize::from(counts.p)],
        stage: Vec::new(),
        lanes: 0,
        caller: None,
        call_pc: 0,
        depth: 0,
        local: 0,
        tops: [0; 32],
    }
}

/// Fills the registers that hold one value for the whole launch.
fn fill(frame: &mut Frame, shape: &Shape<'_>, warp: u32) {
    for preload in &shape.launch.module.functions[frame.function as usize].preloads {
        let values: [u64; 32] =
            std::array::from_fn(|lane| shape.constant(preload.value, warp, lane as u32));
        set(frame, preload.register, &values);
    }
}

/// Fills the registers that change from block to block.
fn fill_block(frame: &mut Frame, shape: &Shape<'_>, block: [u32; 3]) {
    for place in 0..frame.varying.len() {
        let preload = frame.varying[place];
        let value = match preload.value {
            Constant::Special(Special::Ctaid(axis)) => block[usize::from(axis)],
            _ => shape.sm_id(block),
        };
        match preload.register {
            AnyReg::W(w) => frame.w[w.index()] = Row([value; 32]),
            register => set(frame, register, &[u64::from(value); 32]),
        }
    }
}

fn set(frame: &mut Frame, register: AnyReg, values: &[u64; 32]) {
    match register {
        AnyReg::W(w) => frame.w[w.index()] = Row(values.map(|value| value as u32)),
        AnyReg::D(d) => frame.d[d.index()] = Row(*values),
        AnyReg::P(p) => frame.p[p.index()] = if values[0] & 1 == 1 { FULL } else { 0 },
    }
}
