//! Threads that launch, signal and synchronise across each other, against a sequential model.
//!
//! Each stream has a word on the device and a token in the program. Whoever holds the token works on the
//! stream: operations on the word that do not commute, and the same on the token's own copy. Then the token
//! goes to another thread, with no more between the two than a message. What one thread submitted before it
//! passed the token must come before what the next one submits; a lost order is a wrong word at the next check.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cuda_abi::types::{CUdeviceptr, CUevent, CUfunction, CUstream};
use e2e::driver::{Argument, Gpu};

use super::support::{Named, Ready, Verdict, say};

const STREAMS: usize = 6;
/// Words for what streams tell each other; each is written once.
const SLOTS: u64 = 1 << 16;

/// A stream, and what its word must be when everything submitted so far is done.
struct Token {
    stream: usize,
    word: CUdeviceptr,
    model: u32,
    steps: u64,
}

/// A word that another stream may read behind an event.
struct Published {
    slot: CUdeviceptr,
    event: usize,
    value: u32,
}

enum Message {
    Work(Token),
    Stop,
}

struct Board {
    gpu: &'static Gpu,
    /// Addresses, so that threads may share them: a handle means nothing but itself.
    streams: Vec<usize>,
    affine: usize,
    absorb: usize,
    slots: CUdeviceptr,
    next_slot: Mutex<u64>,
    published: Mutex<Vec<Published>>,
    deadline: Instant,
}

/// A small generator: what matters is that threads take different ways.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 33).expect("31 bits fit") % sides
    }
}

/// Runs `threads` threads over the streams for so many seconds.
pub fn order(threads: u64, seconds: u64) -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let words = gpu.allocate(STREAMS * 4).named("cuMemAlloc")?;
    gpu.fill(words, 1, STREAMS).named("cuMemsetD32")?;
    // The streams do not wait for the default stream, on which this was.
    gpu.synchronize().named("cuCtxSynchronize")?;
    let slots = gpu
        .allocate(usize::try_from(SLOTS * 4).expect("fits"))
        .named("cuMemAlloc")?;
    let streams: Vec<CUstream> = (0..STREAMS)
        .map(|_| gpu.create_stream().named("cuStreamCreate"))
        .collect::<Result<_, _>>()?;
    let board = Board {
        gpu,
        streams: streams
            .iter()
            .map(|stream| stream.expose_provenance())
            .collect(),
        affine: ready.function("affine")?.expose_provenance(),
        absorb: ready.function("absorb")?.expose_provenance(),
        slots,
        next_slot: Mutex::new(0),
        published: Mutex::default(),
        deadline: Instant::now() + Duration::from_secs(seconds),
    };
    let context = ready.context.expose_provenance();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel()).unzip();
    let (done, finished) = channel();
    for stream in 0..STREAMS {
        let token = Token {
            stream,
            word: words + 4 * stream as u64,
            model: 1,
            steps: 0,
        };
        let to = stream % senders.len();
        senders[to]
            .send(Message::Work(token))
            .expect("its receiver is here");
    }
    let steps = thread::scope(|scope| {
        let workers: Vec<_> = receivers
            .into_iter()
            .zip(1..)
            .map(|(receiver, seed)| {
                let (board, senders, done) = (&board, senders.clone(), done.clone());
                scope.spawn(move || {
                    board
                        .gpu
                        .set_current(std::ptr::with_exposed_provenance_mut(context))
                        .named("cuCtxSetCurrent")?;
                    board.work(
                        &receiver,
                        &senders,
                        &done,
                        Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)),
                    )
                })
            })
            .collect();
        drop(done);
        // A thread that fails drops its token: then this ends early, and the threads must be told too.
        let returned: Vec<Token> = finished.iter().take(STREAMS).collect();
        for sender in &senders {
            let _ = sender.send(Message::Stop);
        }
        for worker in workers {
            worker.join().expect("no thread panics")?;
        }
        returned.iter().try_fold(0, |sum, token| {
            board.check(token).map(|()| sum + token.steps)
        })
    })?;
    say(&format!("in order after {steps} steps"));
    Ok(())
}

impl Board {
    fn work(
        &self,
        inbox: &Receiver<Message>,
        others: &[Sender<Message>],
        done: &Sender<Token>,
        mut dice: Dice,
    ) -> Verdict {
        let sides = u32::try_from(others.len()).expect("few threads");
        while let Ok(Message::Work(mut token)) = inbox.recv() {
            if let Err(reason) = self.step(&mut token, &mut dice) {
                // Nobody waits for what will not come.
                for other in others {
                    let _ = other.send(Message::Stop);
                }
                return Err(reason);
            }
            let next = usize::try_from(dice.roll(sides)).expect("fits");
            let passed = if Instant::now() < self.deadline {
                others[next].send(Message::Work(token)).is_ok()
            } else {
                done.send(token).is_ok()
            };
            if !passed {
                return Ok(());
            }
        }
        Ok(())
    }

    fn step(&self, token: &mut Token, dice: &mut Dice) -> Verdict {
        token.steps += 1;
        match dice.roll(20) {
            0 => self.check(token),
            1 => self.publish(token),
            2..=4 => self.absorb_one(token),
            _ => self.multiply(token, dice),
        }
    }

    fn multiply(&self, token: &mut Token, dice: &mut Dice) -> Verdict {
        let (factor, term) = (dice.roll(1 << 30) * 2 + 1, dice.roll(1 << 30));
        let arguments = [
            Argument::Word(token.word),
            Argument::Int(factor),
            Argument::Int(term),
        ];
        self.launch(self.affine, &arguments, token.stream)?;
        token.model = token.model.wrapping_mul(factor).wrapping_add(term);
        Ok(())
    }

    /// Puts the word where another stream may fetch it, behind an event.
    fn publish(&self, token: &Token) -> Verdict {
        let mut next = lock(&self.next_slot);
        if *next == SLOTS {
            return Ok(());
        }
        let slot = self.slots + 4 * *next;
        *next += 1;
        drop(next);
        let stream = self.stream(token.stream);
        self.gpu
            .copy(slot, token.word, 4, stream)
            .named("cuMemcpyDtoDAsync")?;
        let event = self.gpu.create_event().named("cuEventCreate")?;
        self.gpu
            .record_event(event, stream)
            .named("cuEventRecord")?;
        lock(&self.published).push(Published {
            slot,
            event: event.expose_provenance(),
            value: token.model,
        });
        Ok(())
    }

    /// Takes in what another stream, or the same, has published.
    fn absorb_one(&self, token: &mut Token) -> Verdict {
        let Some(found) = lock(&self.published).pop() else {
            return Ok(());
        };
        let event: CUevent = std::ptr::with_exposed_provenance_mut(found.event);
        self.gpu
            .wait_event(self.stream(token.stream), event)
            .named("cuStreamWaitEvent")?;
        self.gpu.destroy_event(event).named("cuEventDestroy")?;
        let arguments = [Argument::Word(token.word), Argument::Word(found.slot)];
        self.launch(self.absorb, &arguments, token.stream)?;
        token.model = token.model.wrapping_mul(31).wrapping_add(found.value);
        Ok(())
    }

    fn check(&self, token: &Token) -> Verdict {
        self.gpu
            .synchronize_stream(self.stream(token.stream))
            .named("cuStreamSynchronize")?;
        let mut word = [0; 4];
        self.gpu
            .download(&mut word, token.word)
            .named("cuMemcpyDtoH")?;
        let seen = u32::from_le_bytes(word);
        if seen == token.model {
            return Ok(());
        }
        Err(format!(
            "stream {} holds {seen:#x} after {} steps, in order it would be {:#x}",
            token.stream, token.steps, token.model
        ))
    }

    fn launch(&self, kernel: usize, arguments: &[Argument], stream: usize) -> Verdict {
        let kernel: CUfunction = std::ptr::with_exposed_provenance_mut(kernel);
        self.gpu
            .launch(kernel, 1, 1, arguments, self.stream(stream))
            .named("cuLaunchKernel")
    }

    fn stream(&self, index: usize) -> CUstream {
        std::ptr::with_exposed_provenance_mut(self.streams[index])
    }
}

/// A panic ends the program.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
