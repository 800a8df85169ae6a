//! One client's control region, put together for either side.

#![forbid(unsafe_code)]

use thiserror::Error;

use crate::callback::{CallbackEnd, Callbacks};
use crate::lane::{LanePool, LaneViolation, WorkerLane};
use crate::layout::{HeadLine, Layout, Limits, LimitsError};
use crate::memory::{OutOfBounds, Region};
use crate::ring::{Consumer, PlaceError, Producer, RingPlace, SharedProducer};
use crate::staging::{StagingPool, StagingReturns};
use crate::status::{CreditReturns, Credits, Latches, Output, Ping};
use crate::wait::Patience;

/// A control region could not be put to use; the attach fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The limits cannot be laid out.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The region is smaller than its limits say.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

impl From<OutOfBounds> for ControlError {
    fn from(error: OutOfBounds) -> Self {
        Self::Place(error.into())
    }
}

/// The client's ends of everything in a control region.
#[derive(Debug)]
pub struct ClientControl<R> {
    /// Where things lie.
    pub layout: Layout,
    /// Calls go in here.
    pub submissions: SharedProducer<R>,
    /// Lanes for the threads.
    pub lanes: LanePool<R>,
    /// Latched errors.
    pub latches: Latches<R>,
    /// Credits of the streams.
    pub credits: Credits<R>,
    /// Asks whether the worker runs.
    pub ping: Ping<R>,
    /// Chunks for pageable copies.
    pub staging: StagingPool<R>,
    /// Whether kernels printed something.
    pub output: Output<R>,
}

impl<R: Region> ClientControl<R> {
    /// The client's ends of a fresh region; the callback end apart, for the thread that owns it.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn open(
        region: &R,
        limits: &Limits,
        patience: Patience,
    ) -> Result<(Self, CallbackEnd<R>), ControlError> {
        let layout = Layout::new(limits)?;
        let producer = Producer::new(region, &submission_place(&layout), patience)?;
        let control = Self {
            submissions: SharedProducer::new(producer),
            lanes: LanePool::new(region, &layout, patience),
            latches: Latches::new(region, &layout)?,
            credits: Credits::new(region, &layout, patience)?,
            ping: Ping::new(region)?,
            staging: StagingPool::new(region, &layout, patience)?,
            output: Output::new(region)?,
            layout,
        };
        let callbacks = CallbackEnd::new(region, &control.layout)?;
        Ok((control, callbacks))
    }
}

/// The worker's ends of everything in a control region.
#[derive(Debug)]
pub struct WorkerControl<R: Region> {
    /// Where things lie.
    pub layout: Layout,
    /// Latched errors.
    pub latches: Latches<R>,
    /// Credits of the streams.
    pub credits: CreditReturns<R>,
    /// Answers whether we run.
    pub ping: Ping<R>,
    /// Chunks of pageable copies.
    pub staging: StagingReturns<R>,
    /// Asks the client to run something.
    pub callbacks: Callbacks<R>,
    /// Tells that kernels printed something.
    pub output: Output<R>,
    lanes: Vec<WorkerLane<R>>,
}

impl<R: Region> WorkerControl<R> {
    /// The worker's ends of a fresh region; the submissions apart, for the dispatcher that owns
    /// them.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn open(
        region: &R,
        limits: &Limits,
        patience: Patience,
    ) -> Result<(Self, Consumer<R>), ControlError> {
        let layout = Layout::new(limits)?;
        let count = u16::try_from(limits.lanes).unwrap_or(u16::MAX);
        let lanes = (0..count).map(|lane| WorkerLane::new(region, &layout, lane));
        let control = Self {
            lanes: lanes.collect::<Result<_, _>>()?,
            latches: Latches::new(region, &layout)?,
            credits: CreditReturns::new(region, &layout)?,
            ping: Ping::new(region)?,
            staging: StagingReturns::new(region, &layout)?,
            callbacks: Callbacks::new(region, &layout, patience)?,
            output: Output::new(region)?,
            layout,
        };
        let submissions = Consumer::new(region, &submission_place(&control.layout))?;
        Ok((control, submissions))
    }

    /// The lane that a record names.
    ///
    /// # Errors
    /// [`LaneViolation::NoLane`].
    #[inline]
    pub fn lane(&self, index: u16) -> Result<&WorkerLane<R>, LaneViolation> {
        self.lanes
            .get(usize::from(index))
            .ok_or(LaneViolation::NoLane(index))
    }
}

/// The place of the submission ring in a region.
pub fn submission_place(layout: &Layout) -> RingPlace {
    RingPlace {
        lines: layout.submission(),
        head: HeadLine::SubmissionHead.word(),
        bell: HeadLine::SubmissionBell.word(),
        space: HeadLine::SubmissionSpace.word(),
    }
}
