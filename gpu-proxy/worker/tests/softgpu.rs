//! A worker's session in this process, over the shared memory and the driver that ship: the client's
//! ends of the control region on one side, the dispatcher, the lanes and the software GPU on the other.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use cuda_abi::function::Group;
use cuda_abi::types::CUresult;
use idm_protocol::attach::Capabilities;
use idm_protocol::bulk::{Piece, Plan};
use idm_protocol::control::{ClientControl, WorkerControl};
use idm_protocol::handle::{Handle, Kind};
use idm_protocol::lane::ClientLane;
use idm_protocol::layout::{CHUNK_BYTES, Layout, Limits};
use idm_protocol::memory::{Mapped, Memory, SealedFile};
use idm_protocol::record::{Flags, Request};
use idm_protocol::status::{StatusPage, StatusWriter};
use idm_protocol::wait::{Immortal, Patience};
use idm_protocol::window::{Arena, Reservation};
use idm_protocol::wire::{self, copy_kind, image_kind};
use proxy_channel::calls::{Call, CallPage, CallReader, IMAGE_NAME, KERNEL_NAME};
use proxy_channel::credit::Credit;
use proxy_channel::message::{Charge, FromWorker, Outcome, ToWorker, Verdict};
use proxy_channel::shares::Shares;
use proxy_channel::stats::{STATS_BYTES, StatsPage, StatsWriter};
use proxy_channel::supervisor::{Received, SupervisorChannel};
use proxy_channel::worker::{Event, WorkerChannel};
use sha2::Digest;
use vgpu_worker::calls::Calls;
use vgpu_worker::dispatcher;
use vgpu_worker::driver::Driver;
use vgpu_worker::errors::Violation;
use vgpu_worker::lanes::Lanes;
use vgpu_worker::session::{Parts, Session};
use zerocopy::{FromBytes, FromZeros};

const QUOTA: u64 = 64 << 20;

/// What a client holds, with the worker behind it.
struct Client {
    control: ClientControl<Mapped>,
    lane: ClientLane<Mapped>,
    arena: Mapped,
    arena_start: u64,
    session: &'static Session,
    dispatcher: Option<thread::JoinHandle<Result<(), Violation>>>,
    granted: StatusWriter,
    /// What the worker writes down.
    calls: CallReader<Mapped>,
}

impl Client {
    /// Attached, to a worker of its own with a quota of [`QUOTA`].
    fn attach() -> Self {
        let limits = Limits {
            arena_bytes: 32 << 20,
            staging_chunks: 16,
            ..Limits::default()
        };
        let layout = Layout::new(&limits).unwrap();
        let file = SealedFile::create(c"control", layout.byte_len()).unwrap();
        let patience = Patience::detect();
        let near = Mapped::new(&file).unwrap();
        let (control, submissions) =
            WorkerControl::open(&Mapped::new(&file).unwrap(), &limits, patience).unwrap();
        let (client, _callbacks) = ClientControl::open(&near, &limits, patience).unwrap();
        // Each test its own place.
        static NEXT: AtomicU64 = AtomicU64::new(0x6300_0000_0000);
        let start = NEXT.fetch_add(1 << 32, Ordering::Relaxed);
        let arena_file = SealedFile::create(c"arena", 32 << 20).unwrap();
        let arena = Arena::map(Reservation::at(start, 1 << 31).unwrap(), &arena_file).unwrap();
        let (status, status_file) = StatusWriter::create().unwrap();
        status.set_capabilities(Capabilities::ALL);
        status.set_memory(QUOTA, 0, QUOTA);
        let page = StatsPage::create().unwrap();
        let stats = SealedFile::receive(page.as_fd().try_clone_to_owned().unwrap(), STATS_BYTES);
        let channel = supervised();
        let credit = Arc::new(Credit::new(Arc::clone(&channel), 1 << 20));
        listen(&channel, &credit);
        // SAFETY: the software GPU implements the Driver API.
        let driver = unsafe { Driver::load(&software_gpu()) }.unwrap();
        let page = CallPage::create().unwrap();
        let fds = page
            .descriptors()
            .map(|fd| fd.try_clone_to_owned().unwrap());
        let (calls, _) = CallPage::receive(fds.into()).unwrap().reader(0).unwrap();
        let session: &'static Session = Box::leak(Box::new(Session::new(Parts {
            driver,
            control: Arc::new(control),
            arena,
            status: StatusPage::open(&status_file).unwrap(),
            credit,
            stats: StatsWriter::new(&stats.unwrap()).unwrap(),
            shares: Arc::new(Shares::new(Arc::clone(&channel))),
            context_overhead: 0,
            images: u64::MAX,
            calls: Calls::new(Some(page), &channel).unwrap(),
            channel,
            output: vgpu_worker::output::Output::of_nobody().unwrap(),
        })));
        let lanes = Lanes::new(session, |_, violation| panic!("{violation}"));
        let dispatcher = thread::spawn(move || dispatcher::run(session, submissions, lanes));
        let lane = client.lanes.take().unwrap();
        Self {
            control: client,
            lane,
            arena: Mapped::new(&arena_file).unwrap(),
            arena_start: start,
            session,
            dispatcher: Some(dispatcher),
            granted: status,
            calls,
        }
    }

    /// Posts a request in context 0 and waits; status, and the reply's bytes.
    fn call<T: Request>(&mut self, request: &T, tail: &[&[u8]]) -> (CUresult, Vec<u8>) {
        let reply = self
            .lane
            .call(&self.control.submissions, 1, request, tail, &Immortal)
            .unwrap();
        (CUresult(reply.status), reply.body.to_vec())
    }

    fn status<T: Request>(&mut self, request: &T) -> CUresult {
        self.call(request, &[]).0
    }

    fn ok<T: Request, R: FromBytes>(&mut self, request: &T, tail: &[&[u8]]) -> R {
        let (status, body) = self.call(request, tail);
        assert_eq!(status, CUresult::CUDA_SUCCESS);
        R::read_from_prefix(&body).unwrap().0
    }

    /// The calls that were written down since this was asked last.
    fn written(&mut self) -> Vec<Call> {
        let mut calls = Vec::new();
        self.calls.take(usize::MAX, &mut calls);
        self.calls.release();
        calls
    }

    /// A name in the page of calls.
    fn name(&self, number: u16) -> (u32, Vec<u8>) {
        let name = self.calls.name(number).unwrap();
        (name.kind, name.bytes)
    }

    fn post<T: Request>(&mut self, request: &T) {
        self.lane
            .post(&self.control.submissions, 1, request, &[], &Immortal)
            .unwrap();
    }

    /// With the context of slot 0.
    fn with_context() -> Self {
        let mut client = Self::attach();
        let request = wire::CuCtxCreateV2 {
            context: handle(Kind::CONTEXT, 0),
            device: 0,
            flags: 0,
        };
        assert_eq!(client.status(&request), CUresult::CUDA_SUCCESS);
        client
    }

    fn allocate(&mut self, bytes: u64) -> u64 {
        let reply: wire::CuMemAllocV2Reply = self.ok(&wire::CuMemAllocV2 { bytes }, &[]);
        reply.address
    }

    fn fill(&mut self, destination: u64, width: u64, value: u32) -> CUresult {
        self.status(&wire::VgpuMemset {
            destination,
            width,
            height: 1,
            value,
            element_bytes: 4,
            ..wire::VgpuMemset::default()
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.session.end();
        if let Some(dispatcher) = self.dispatcher.take() {
            // It sleeps until there is a record.
            self.post(&wire::VgpuNop {});
            let _ = dispatcher.join();
        }
    }
}

/// A supervisor that grants up to [`QUOTA`].
fn supervised() -> Arc<WorkerChannel> {
    let (near, far) = SupervisorChannel::pair().unwrap();
    thread::spawn(move || {
        let mut used = 0u64;
        loop {
            match near.receive() {
                Ok(Received::Message(FromWorker::Charge(Charge { request_id, bytes }))) => {
                    let outcome = if used.saturating_add(bytes) <= QUOTA {
                        used += bytes;
                        Outcome::Granted
                    } else {
                        Outcome::Refused { limit: QUOTA, used }
                    };
                    let verdict = ToWorker::Verdict(Verdict {
                        request_id,
                        outcome,
                    });
                    near.send(&verdict).unwrap();
                }
                Ok(Received::Message(FromWorker::Release { bytes })) => used -= bytes,
                Ok(Received::Message(FromWorker::Denied(_))) => {}
                Ok(Received::Nothing) => thread::sleep(std::time::Duration::from_micros(200)),
                _ => return,
            }
        }
    });
    Arc::new(WorkerChannel::new(far).unwrap())
}

fn listen(channel: &Arc<WorkerChannel>, credit: &Arc<Credit>) {
    let (channel, credit) = (Arc::clone(channel), Arc::clone(credit));
    thread::spawn(move || {
        while let Ok(Event::Verdict(verdict)) = channel.receive() {
            credit.answer(verdict);
        }
    });
}

/// Built beside this test, as a dependency of it.
fn software_gpu() -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap();
    let library = folder.join("libsoftcuda.so");
    assert!(
        library.exists(),
        "{} is built with this test",
        library.display()
    );
    library
}

fn handle(kind: Kind, slot: u32) -> u64 {
    Handle::new(kind, slot, 1).unwrap().value()
}

#[test]
fn what_needs_no_context_is_answered_and_an_unknown_opcode_is_too() {
    #[derive(
        Clone,
        Copy,
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout,
    )]
    #[repr(C)]
    struct Unknown {}
    impl Request for Unknown {
        const OPCODE: u16 = 15;
    }
    let mut client = Client::attach();
    assert_eq!(client.status(&wire::VgpuNop {}), CUresult::CUDA_SUCCESS);
    let snapshot: wire::VgpuSnapshotReply = client.ok(&wire::VgpuSnapshot {}, &[]);
    assert_eq!(snapshot.device_count, 1);
    let mut bytes = vec![0; size_of::<wire::snapshot::Device>()];
    client.lane.read_side(&mut bytes).unwrap();
    let device = wire::snapshot::Device::read_from_bytes(&bytes).unwrap();
    assert_eq!(device.total_memory, QUOTA);
    assert_eq!(
        client.status(&Unknown {}),
        CUresult::CUDA_ERROR_NOT_SUPPORTED
    );
    let no_context = client.status(&wire::CuMemAllocV2 { bytes: 64 });
    assert_eq!(no_context, CUresult::CUDA_ERROR_INVALID_CONTEXT);
}

#[test]
fn memory_is_zeroed_charged_checked_and_given_back() {
    let mut client = Client::with_context();
    for _ in 0..3 {
        let address = client.allocate(4096);
        let out = wire::VgpuCopyOut {
            source: address,
            bytes: 1000,
            stream: 0,
        };
        let (status, bytes) = client.call(&out, &[]);
        assert_eq!((status, bytes), (CUresult::CUDA_SUCCESS, vec![0; 1000]));
        assert_eq!(
            client.fill(address, 1024, 0x0102_0304),
            CUresult::CUDA_SUCCESS
        );
        assert_eq!(
            client.fill(address, 1025, 1),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            client.fill(address + 4096, 1, 1),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        let inside = wire::CuMemFreeV2 {
            address: address + 4,
        };
        assert_eq!(client.status(&inside), CUresult::CUDA_ERROR_INVALID_VALUE);
        let free = wire::CuMemFreeV2 { address };
        assert_eq!(client.status(&free), CUresult::CUDA_SUCCESS);
        assert_eq!(client.status(&free), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let too_much = wire::CuMemAllocV2 { bytes: QUOTA + 1 };
    assert_eq!(client.status(&too_much), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let all = client.allocate(QUOTA);
    assert_eq!(
        client.status(&wire::CuMemAllocV2 { bytes: 1 }),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY
    );
    let destroy = wire::CuCtxDestroyV2 {
        context: handle(Kind::CONTEXT, 0),
    };
    assert_eq!(client.status(&destroy), CUresult::CUDA_SUCCESS);
    assert_eq!(
        client.session.memory_held(),
        0,
        "{all:#x} went with its context"
    );
}

#[test]
fn forged_stale_and_mistyped_handles_get_the_drivers_errors() {
    let mut client = Client::with_context();
    let event = handle(Kind::EVENT, 3);
    let query = |event| wire::CuEventQuery { hEvent: event };
    let invalid = CUresult::CUDA_ERROR_INVALID_HANDLE;
    for value in [
        0,
        7,
        0x7fff_dead_beef,
        event,
        handle(Kind::CONTEXT, 0),
        u64::MAX,
    ] {
        assert_eq!(client.status(&query(value)), invalid, "{value:#x}");
    }
    let create = wire::CuEventCreate {
        phEvent: event,
        ..wire::CuEventCreate::default()
    };
    assert_eq!(client.status(&create), CUresult::CUDA_SUCCESS);
    assert_eq!(client.status(&create), invalid, "bound already");
    assert_eq!(client.status(&query(event)), CUresult::CUDA_SUCCESS);
    let destroy = wire::CuEventDestroyV2 { hEvent: event };
    assert_eq!(client.status(&destroy), CUresult::CUDA_SUCCESS);
    assert_eq!(client.status(&query(event)), invalid, "stale");
    assert_eq!(client.status(&create), invalid, "the generation was used");
    let far = wire::CuEventCreate {
        phEvent: handle(Kind::EVENT, (1 << 24) - 1),
        ..wire::CuEventCreate::default()
    };
    assert_eq!(client.status(&far), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
}

#[test]
fn a_failed_posted_call_is_latched_and_a_failed_create_speaks_through_its_handle() {
    let mut client = Client::with_context();
    let stream = handle(Kind::STREAM, 5);
    client.post(&wire::CuStreamCreate {
        phStream: stream,
        Flags: 0x40,
        reserved: 0,
    });
    client.post(&wire::CuEventRecord {
        hEvent: 77,
        hStream: 0,
    });
    assert_eq!(client.status(&wire::VgpuNop {}), CUresult::CUDA_SUCCESS);
    let latched = client
        .control
        .latches
        .take_lane(client.lane.index())
        .unwrap();
    assert_eq!(CUresult(latched.code), CUresult::CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(latched.opcode, wire::CuEventRecord::OPCODE);
    let query = wire::CuStreamQuery { hStream: stream };
    assert_eq!(client.status(&query), CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn bulk_copies_bring_every_byte_there_and_back() {
    let mut client = Client::with_context();
    let bytes = 11 * CHUNK_BYTES + 123;
    let address = client.allocate(bytes as u64);
    let sent: Vec<u8> = (0u32..)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
        .take(bytes)
        .collect();
    let chunks = [3u32, 0, 7, 4];
    let list: Vec<u8> = chunks
        .iter()
        .flat_map(|chunk| chunk.to_le_bytes())
        .collect();
    let plan = Plan::new(bytes as u64, &chunks, 16)
        .and_then(|plan| plan.skewed(1984))
        .unwrap();
    let patience = Patience::detect();
    let at = |piece: &Piece| usize::try_from(piece.chunk).unwrap() * CHUNK_BYTES + piece.start;
    client.lane.pipe().reset();
    let request = wire::VgpuCopyInBulk {
        destination: address,
        bytes: bytes as u64,
        stream: 0,
        chunk_count: 4,
        skew: 1984,
    };
    let ring = &client.control.submissions;
    let sequence = client
        .lane
        .send(ring, Flags::REPLY, 1, &request, &[&list], &Immortal)
        .unwrap();
    let mut filler = client.lane.pipe().fill(sequence, plan.clone());
    while let Some(piece) = filler.claim(&patience, &Immortal).unwrap() {
        let start = usize::try_from(piece.offset).unwrap();
        client
            .arena
            .write(at(&piece), &sent[start..start + piece.len])
            .unwrap();
        filler.publish();
    }
    assert_eq!(
        client.lane.await_reply(sequence, &Immortal).unwrap().status,
        0
    );
    let mut back = vec![0; bytes];
    client.lane.pipe().reset();
    let request = wire::VgpuCopyOutBulk {
        source: address,
        bytes: bytes as u64,
        stream: 0,
        chunk_count: 4,
        skew: 1984,
    };
    let sequence = client
        .lane
        .send(ring, Flags::REPLY, 1, &request, &[&list], &Immortal)
        .unwrap();
    let mut drainer = client.lane.pipe().drain(sequence, plan);
    while let Some(piece) = drainer.take(&patience, &Immortal).unwrap() {
        let start = usize::try_from(piece.offset).unwrap();
        client
            .arena
            .read(at(&piece), &mut back[start..start + piece.len])
            .unwrap();
        drainer.release();
    }
    assert_eq!(
        client.lane.await_reply(sequence, &Immortal).unwrap().status,
        0
    );
    assert!(back == sent);
}

/// Begins a bulk copy to `destination` that the worker gives up; what the reply says.
fn refused_bulk_copy(client: &mut Client, destination: u64) -> CUresult {
    client.lane.pipe().reset();
    let request = wire::VgpuCopyInBulk {
        destination,
        bytes: 4 * CHUNK_BYTES as u64,
        stream: 0,
        chunk_count: 1,
        skew: 0,
    };
    let ring = &client.control.submissions;
    let tail = 0u32.to_le_bytes();
    let sequence = client
        .lane
        .send(ring, Flags::REPLY, 1, &request, &[&tail], &Immortal)
        .unwrap();
    let plan = Plan::new(4 * CHUNK_BYTES as u64, &[0], 16).unwrap();
    let mut filler = client.lane.pipe().fill(sequence, plan);
    let mut moved = Ok(None);
    for _ in 0..5 {
        moved = filler.claim(&Patience::detect(), &Immortal);
        if moved.is_err() {
            break;
        }
        filler.publish();
    }
    assert!(moved.is_err());
    CUresult(client.lane.await_reply(sequence, &Immortal).unwrap().status)
}

#[test]
fn a_bulk_copy_to_memory_that_is_not_the_clients_is_refused_and_does_not_hang() {
    let mut client = Client::with_context();
    assert_eq!(
        refused_bulk_copy(&mut client, 0x1000),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn a_bulk_copy_in_a_context_that_is_gone_is_refused_and_does_not_hang() {
    let mut client = Client::attach();
    assert_ne!(
        refused_bulk_copy(&mut client, 0x1000),
        CUresult::CUDA_SUCCESS
    );
}

#[test]
fn what_is_no_longer_granted_is_refused_with_the_next_record_and_what_frees_is_not() {
    let mut client = Client::with_context();
    let bytes = 4 * CHUNK_BYTES as u64;
    let made: wire::CuMemAllocV2Reply = client.ok(&wire::CuMemAllocV2 { bytes }, &[]);
    let refused = CUresult::CUDA_ERROR_NOT_PERMITTED;
    let without = Capabilities::ALL & !Group::Memory.bit();
    client.granted.set_capabilities(without);
    assert_eq!(client.status(&wire::CuMemAllocV2 { bytes }), refused);
    assert_eq!(refused_bulk_copy(&mut client, made.address), refused);
    // What nobody waits for is refused too, and told by the next call of the lane.
    client.post(&wire::VgpuMemset {
        destination: made.address,
        ..wire::VgpuMemset::new_zeroed()
    });
    assert_eq!(
        client.status(&wire::CuCtxSynchronize {}),
        CUresult::CUDA_SUCCESS
    );
    let latched = client.control.latches.take_lane(client.lane.index());
    assert_eq!(latched.map(|error| error.code), Some(refused.0));
    let address = made.address;
    let freed = client.status(&wire::CuMemFreeV2 { address });
    assert_eq!(freed, CUresult::CUDA_SUCCESS);
    client.granted.set_capabilities(Capabilities::ALL);
    let _again: wire::CuMemAllocV2Reply = client.ok(&wire::CuMemAllocV2 { bytes }, &[]);
}

#[test]
fn pinned_memory_must_be_free_pages_of_the_arena() {
    let mut client = Client::with_context();
    let first = client.arena_start + 16 * CHUNK_BYTES as u64;
    let pin = |address, bytes| wire::CuMemHostAlloc {
        address,
        bytes,
        flags: 0,
        reserved: 0,
    };
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    for (address, bytes) in [
        (first - 4096, 4096),
        (first + 1, 4096),
        (first, 0),
        (first, 32 << 20),
        (first, u64::MAX),
        (0x1000, 4096),
    ] {
        assert_eq!(
            client.status(&pin(address, bytes)),
            invalid,
            "{address:#x} {bytes}"
        );
    }
    assert_eq!(client.status(&pin(first, 8192)), CUresult::CUDA_SUCCESS);
    assert_eq!(client.status(&pin(first + 4096, 4096)), invalid, "taken");
    let device = client.allocate(8192);
    assert_eq!(client.fill(device, 2048, 9), CUresult::CUDA_SUCCESS);
    let copy = wire::VgpuCopy {
        destination: first,
        source: device,
        bytes: 8192,
        stream: 0,
        kind: copy_kind::DEVICE_TO_HOST,
        reserved: 0,
    };
    assert_eq!(client.status(&copy), CUresult::CUDA_SUCCESS);
    let mut found = [0; 4];
    client
        .arena
        .read(16 * CHUNK_BYTES + 8188, &mut found)
        .unwrap();
    assert_eq!(found, 9u32.to_le_bytes());
    let mistaken = wire::VgpuCopy {
        kind: copy_kind::HOST_TO_DEVICE,
        ..copy
    };
    assert_eq!(client.status(&mistaken), invalid);
    let free = wire::CuMemFreeHost { address: first };
    assert_eq!(client.status(&free), CUresult::CUDA_SUCCESS);
    assert_eq!(client.status(&free), invalid);
}

#[test]
fn a_module_is_loaded_launched_and_gone_with_its_functions() {
    const PTX: &[u8] = b".version 7.5\n.target sm_75\n.address_size 64\n\
        .visible .entry put(.param .u64 to, .param .u32 value)\n{\n\
        .reg .b32 %r<2>;\n.reg .b64 %rd<2>;\n\
        ld.param.u64 %rd1, [to];\nld.param.u32 %r1, [value];\n\
        st.global.u32 [%rd1], %r1;\nret;\n}\n";
    let mut client = Client::with_context();
    let module = handle(Kind::MODULE, 1);
    let load = wire::CuModuleLoadDataEx {
        module,
        image_bytes: PTX.len() as u64,
        kind: image_kind::PTX,
        ..wire::CuModuleLoadDataEx::default()
    };
    let broken = wire::CuModuleLoadDataEx {
        kind: image_kind::CUBIN,
        ..load
    };
    assert_eq!(
        client.call(&broken, &[PTX]).0,
        CUresult::CUDA_ERROR_INVALID_IMAGE
    );
    assert_eq!(client.call(&load, &[PTX]).0, CUresult::CUDA_SUCCESS);
    let function = handle(Kind::FUNCTION, 1);
    let lookup = wire::CuModuleGetFunction {
        function,
        module,
        name_bytes: 3,
        reserved: 0,
    };
    let found: wire::CuModuleGetFunctionReply = client.ok(&lookup, &[b"put"]);
    assert_eq!(found.parameter_count, 2);
    let mut layout = [0; 16];
    client.lane.read_side(&mut layout).unwrap();
    assert_eq!(layout, [0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0]);
    let to = client.allocate(4);
    let launch = wire::CuLaunchKernel {
        function,
        grid_x: 1,
        grid_y: 1,
        grid_z: 1,
        block_x: 1,
        block_y: 1,
        block_z: 1,
        parameter_bytes: 12,
        ..wire::CuLaunchKernel::default()
    };
    let mut parameters = to.to_le_bytes().to_vec();
    parameters.extend(4711u32.to_le_bytes());
    for _ in 0..2000 {
        // Posted without taking credits: the worker returns what nobody took, and that is our affair.
        client
            .lane
            .post(
                &client.control.submissions,
                1,
                &launch,
                &[&parameters],
                &Immortal,
            )
            .unwrap();
    }
    assert_eq!(
        client.status(&wire::CuStreamSynchronize { hStream: 0 }),
        CUresult::CUDA_SUCCESS
    );
    let out = wire::VgpuCopyOut {
        source: to,
        bytes: 4,
        stream: 0,
    };
    assert_eq!(client.call(&out, &[]).1, 4711u32.to_le_bytes());
    assert_eq!(
        client.status(&wire::CuModuleUnload { module }),
        CUresult::CUDA_SUCCESS
    );
    let (status, _) = client.call(&launch, &[&parameters]);
    assert_eq!(status, CUresult::CUDA_ERROR_INVALID_HANDLE);

    let calls = client.written();
    let of = |opcode| -> Vec<&Call> { calls.iter().filter(|call| call.opcode == opcode).collect() };
    let loads = of(wire::CuModuleLoadDataEx::OPCODE);
    let invalid = CUresult::CUDA_ERROR_INVALID_IMAGE.0;
    assert_eq!((loads[0].result, loads[1].result), (invalid, 0));
    assert_eq!((loads[1].object, loads[1].size), (module, PTX.len() as u64));
    let digest = sha2::Sha256::digest(PTX).to_vec();
    assert_eq!(client.name(loads[1].image), (IMAGE_NAME, digest));
    let allocated = of(wire::CuMemAllocV2::OPCODE);
    assert_eq!((allocated[0].object, allocated[0].size), (to, 4));
    let launches = of(wire::CuLaunchKernel::OPCODE);
    assert_eq!(launches.len(), 2001);
    assert!(launches[..2000].iter().all(|call| {
        let said = (call.object, call.size, call.result, call.device);
        said == (function, 1, 0, 0) && call.image == loads[1].image
    }));
    assert_eq!(launches[2000].result, CUresult::CUDA_ERROR_INVALID_HANDLE.0);
    assert_eq!(
        client.name(launches[0].kernel),
        (KERNEL_NAME, b"put".to_vec())
    );
    assert!(calls.is_sorted_by_key(|call| call.start_ns));
    assert_eq!(client.calls.take_rest(), [], "nothing is under way");
}

#[test]
fn a_record_that_lies_about_its_tail_ends_the_client() {
    let mut client = Client::with_context();
    let request = wire::VgpuCopyIn {
        destination: 0,
        bytes: 1 << 20,
        stream: 0,
    };
    client.post(&request);
    let ended = client.dispatcher.take().unwrap().join().unwrap();
    assert!(matches!(ended, Err(Violation::Lane(_))), "{ended:?}");
}

#[test]
fn a_second_question_before_the_first_answer_ends_the_client() {
    let mut client = Client::attach();
    let ring = &client.control.submissions;
    // Nobody answers an upload before its bytes are there.
    let upload = wire::VgpuUpload {
        upload: 1,
        total: 10,
        chunk_count: 1,
        reserved: 0,
    };
    let tail = 0u32.to_le_bytes();
    client
        .lane
        .send(ring, Flags::REPLY, 0, &upload, &[&tail], &Immortal)
        .unwrap();
    client
        .lane
        .send(ring, Flags::REPLY, 0, &wire::VgpuNop {}, &[], &Immortal)
        .unwrap();
    let ended = client.dispatcher.take().unwrap().join().unwrap();
    assert!(matches!(ended, Err(Violation::Lane(_))), "{ended:?}");
}
