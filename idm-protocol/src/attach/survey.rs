//! What a zone looks like to those who only look: the question and the answer behind `libnvidia-ml.so.1`.
//!
//! A process that wants to know sends a [`SurveyRequest`] on a connection of its own, in the place of a
//! [`Hello`](super::Hello), and gets one [`Survey`] or one [`Refusal`](super::Refusal). It gets no worker, no
//! memory and no descriptor, and counts as no client. The connection ends there; whoever wants newer numbers
//! asks again.

#![forbid(unsafe_code)]

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{DriverKind, Header, Malformed, MessageKind, Text, decode};

/// Devices that a survey has room for.
pub const MAX_DEVICES: usize = 32;

/// Clients that a survey has room for.
pub const MAX_PROCESSES: usize = 128;

/// The question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SurveyRequest {
    /// [`MessageKind::SURVEY_REQUEST`].
    pub header: Header,
}

const _: () = assert!(size_of::<SurveyRequest>() == 16);

impl SurveyRequest {
    /// A question of this build.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            header: Header::new(MessageKind::SURVEY_REQUEST),
        }
    }

    /// Reads a question from one received packet.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        decode(packet, MessageKind::SURVEY_REQUEST, |request: &Self| {
            request.header
        })
    }
}

impl Default for SurveyRequest {
    fn default() -> Self {
        Self::new()
    }
}

/// One device, as the driver describes it and whatever a zone may use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Device {
    /// Bytes of memory it has.
    pub total_memory: u64,
    /// UUID as `cuDeviceGetUuid_v2` gives it.
    pub uuid: [u8; 16],
    /// PCI domain, bus and device.
    pub pci: [u32; 3],
    /// PCI device and vendor, as one word; 0 if the driver does not tell.
    pub pci_device_id: u32,
    /// PCI subsystem, likewise.
    pub pci_subsystem_id: u32,
    /// Compute capability, major and minor.
    pub compute_capability: [u32; 2],
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Highest clock of the multiprocessors, in kilohertz; 0 if the driver does not tell.
    pub clock_khz: u32,
    /// Highest clock of the memory, in kilohertz, likewise.
    pub memory_clock_khz: u32,
    /// Width of the memory bus, in bits, likewise.
    pub memory_bus_bits: u32,
    /// Whether memory errors are corrected: 0 or 1.
    pub ecc: u32,
    /// Name.
    pub name: Text<96>,
}

const _: () = assert!(size_of::<Device>() == 168);

/// A client of the zone that has a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Process {
    /// Its process id, as it has it itself (and as it claims).
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
    /// Device memory it holds, in bytes.
    pub memory: u64,
}

const _: () = assert!(size_of::<Process>() == 16);

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Survey {
    /// [`MessageKind::SURVEY`].
    pub header: Header,
    /// Device memory the zone may hold, in bytes, over all its clients and devices.
    pub memory_limit: u64,
    /// What they hold of it.
    pub memory_used: u64,
    /// Which driver the zone's workers load.
    pub driver_kind: DriverKind,
    /// What `cuDriverGetVersion` said there.
    pub driver_version: u32,
    /// Devices that follow.
    pub device_count: u32,
    /// Processes that follow.
    pub process_count: u32,
    /// The driver's own version, `580.65.06` say; empty if it does not tell.
    pub driver_release: Text<80>,
    /// The devices; zero beyond the count.
    pub devices: [Device; MAX_DEVICES],
    /// The processes; zero beyond the count.
    pub processes: [Process; MAX_PROCESSES],
}

/// Length of a [`Survey`]: a receive buffer of this size never truncates an honest answer.
pub const SURVEY_LEN: usize = size_of::<Survey>();

const _: () = assert!(SURVEY_LEN == 7552);

impl Survey {
    /// An answer that says nothing yet.
    #[must_use]
    pub fn empty() -> Box<Self> {
        let mut survey = Box::new(Self::new_zeroed());
        survey.header = Header::new(MessageKind::SURVEY);
        survey
    }

    /// Reads an answer from one received packet.
    pub fn decode(packet: &[u8]) -> Result<Box<Self>, Malformed> {
        let survey = decode(packet, MessageKind::SURVEY, |survey: &Self| survey.header)?;
        Ok(Box::new(survey))
    }

    /// Adds a device; false if there is no room.
    pub fn add_device(&mut self, device: Device) -> bool {
        let index = usize::try_from(self.device_count).unwrap_or(usize::MAX);
        let Some(place) = self.devices.get_mut(index) else {
            return false;
        };
        *place = device;
        self.device_count += 1;
        true
    }

    /// Adds a process; false if there is no room.
    pub fn add_process(&mut self, process: Process) -> bool {
        let index = usize::try_from(self.process_count).unwrap_or(usize::MAX);
        let Some(place) = self.processes.get_mut(index) else {
            return false;
        };
        *place = process;
        self.process_count += 1;
        true
    }

    /// The devices; a count beyond the room is cut to it.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        let count = usize::try_from(self.device_count).unwrap_or(usize::MAX);
        &self.devices[..count.min(MAX_DEVICES)]
    }

    /// The processes, likewise.
    #[must_use]
    pub fn processes(&self) -> &[Process] {
        let count = usize::try_from(self.process_count).unwrap_or(usize::MAX);
        &self.processes[..count.min(MAX_PROCESSES)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u8) -> Device {
        Device {
            uuid: [number; 16],
            name: Text::new("a device"),
            ..Device::new_zeroed()
        }
    }

    #[test]
    fn a_survey_survives_a_round_trip_and_takes_no_more_than_it_has_room_for() {
        let mut survey = Survey::empty();
        let added = (0..40)
            .filter(|&number| survey.add_device(device(number)))
            .count();
        assert_eq!(added, MAX_DEVICES);
        let process = |pid| Process {
            pid,
            reserved: 0,
            memory: 4096,
        };
        let added = (0..200)
            .filter(|&pid| survey.add_process(process(pid)))
            .count();
        assert_eq!(added, MAX_PROCESSES);
        let again = Survey::decode(survey.as_bytes()).unwrap();
        assert_eq!(again, survey);
        assert_eq!(again.devices()[31], device(31));
        assert_eq!(again.processes().len(), MAX_PROCESSES);
    }

    #[test]
    fn counts_beyond_the_room_are_cut_to_it() {
        let mut survey = Survey::empty();
        survey.device_count = u32::MAX;
        survey.process_count = 129;
        let survey = Survey::decode(survey.as_bytes()).unwrap();
        assert_eq!(survey.devices().len(), MAX_DEVICES);
        assert_eq!(survey.processes().len(), MAX_PROCESSES);
    }

    #[test]
    fn question_and_answer_are_not_taken_for_each_other() {
        let request = SurveyRequest::new();
        assert_eq!(SurveyRequest::decode(request.as_bytes()), Ok(request));
        assert!(matches!(
            Survey::decode(request.as_bytes()),
            Err(Malformed::Kind {
                found: 4,
                wanted: 5
            })
        ));
        let survey = Survey::empty();
        assert!(matches!(
            SurveyRequest::decode(survey.as_bytes()),
            Err(Malformed::Kind {
                found: 5,
                wanted: 4
            })
        ));
        assert!(matches!(
            Survey::decode(&survey.as_bytes()[..SURVEY_LEN - 1]),
            Err(Malformed::Size { .. })
        ));
    }
}
