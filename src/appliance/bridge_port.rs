//! One TAP: reading, writing, what to do when it is full, down or gone.

use std::collections::VecDeque;
use std::io;
use std::task::Context;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::counters::PortCounters;
use super::watch::watch;
use crate::buffer::FrameBuf;
use crate::io::{Clock, Tap, TapError, TapFault};
use crate::units::Instant;

/// Frames of our own that may wait for the kernel's queue; with more the loop takes none from the engine.
const PENDING_MAX: usize = 64;

/// How soon a full queue is tried again. A TAP says "full" without ever saying "no longer full".
const BUSY_RETRY: Duration = Duration::from_millis(1);

/// How soon a vanished TAP is looked for again; doubles up to [`REOPEN_MAX`].
const REOPEN_MIN: Duration = Duration::from_millis(100);
const REOPEN_MAX: Duration = Duration::from_secs(5);

enum State {
    Open(AsyncFd<Tap>),
    Gone { retry_at: Instant, wait: Duration },
}

/// What became of a frame.
enum Written {
    Done,
    Busy,
}

/// One side of the bridge.
pub(super) struct BridgePort {
    name: String,
    state: State,
    /// We made the TAP, so we may make it again. One that was there before belongs to whoever put it into a bridge.
    created: bool,
    /// The runtime saw an error condition on the descriptor.
    is_going: bool,
    /// The last write found the interface down: do not log it again.
    is_down: bool,
    pending: VecDeque<FrameBuf>,
    /// When `pending` is tried again.
    retry_at: Option<Instant>,
    pub(super) counters: PortCounters,
}

impl BridgePort {
    pub(super) fn open(name: &str) -> Result<Self, PortError> {
        let tap = Tap::open(name).map_err(PortError::Tap)?;
        let created = tap.is_created();
        let offloads = tap.offloads();
        if !offloads.has_tso() {
            tracing::warn!(tap = name, "no segmentation offload on this TAP: expect a tenth of the throughput");
        }
        tracing::info!(tap = name, created, tso = offloads.has_tso(), uso = offloads.has_uso(), "TAP open");
        Ok(BridgePort {
            name: name.to_owned(),
            state: State::Open(register(tap).map_err(PortError::Register)?),
            created,
            is_going: false,
            is_down: false,
            pending: VecDeque::new(),
            retry_at: None,
            counters: PortCounters::default(),
        })
    }

    /// Whether there may be frames to read; if not, wakes `context` when there are.
    pub(super) fn poll_readable(&mut self, context: &mut Context<'_>) -> bool {
        let State::Open(tap) = &self.state else { return false };
        // Nobody asked to be told of room to write, so this reports an error condition only: the interface is going.
        self.is_going = tap.poll_write_ready(context).is_ready();
        tap.poll_read_ready(context).is_ready() || self.is_going
    }

    /// The next frame; `None` when none waits, or none can be had in this round.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let State::Open(tap) = &self.state else { return None };
        let read = if self.is_going {
            tap.get_ref().try_read(buffer) // says so; the runtime would take it for not readable
        } else {
            tap.try_io(Interest::READABLE, |tap| tap.try_read(buffer))
        };
        match read {
            Ok(len) => {
                self.counters.frames_read += 1;
                return Some(len);
            }
            Err(error) => match TapFault::of(&error) {
                // The kernel dropped the frame it could not hand over; the next may fit.
                TapFault::Refused => self.counters.dropped_refused += 1,
                TapFault::Gone => self.on_gone(&error),
                TapFault::Busy | TapFault::Down => {}
            },
        }
        None
    }

    /// Writes a frame that is being forwarded; if the kernel cannot take it now it is lost, as in any bridge.
    pub(super) fn forward(&mut self, frame: &[u8]) {
        if let Written::Busy = self.write(frame) {
            self.counters.dropped_busy += 1;
        }
    }

    /// Writes a frame of the engine's; returns it for reuse, or keeps it until the kernel can take it.
    pub(super) fn send(&mut self, frame: FrameBuf, now: Instant) -> Option<FrameBuf> {
        if self.pending.is_empty()
            && let Written::Done = self.write(&frame)
        {
            return Some(frame);
        }
        self.counters.deferred += 1;
        self.pending.push_back(frame);
        self.retry_at.get_or_insert(now + BUSY_RETRY);
        None
    }

    /// Whether [`BridgePort::send`] may be called.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < PENDING_MAX
    }

    /// Does what was due at or before `now`: pending frames, a vanished TAP. Written frames go to `recycle`.
    pub(super) fn handle_timeout(&mut self, now: Instant, mut recycle: impl FnMut(FrameBuf)) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            while let Some(frame) = self.pending.pop_front() {
                if let Written::Busy = self.write(&frame) {
                    self.pending.push_front(frame);
                    self.retry_at = Some(now + BUSY_RETRY);
                    break;
                }
                recycle(frame);
            }
        }
        if let State::Gone { retry_at, wait } = self.state
            && retry_at <= now
        {
            self.reopen(now, wait);
        }
    }

    /// When [`BridgePort::handle_timeout`] has work next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let reopen = match self.state {
            State::Open(_) => None,
            State::Gone { retry_at, .. } => Some(retry_at),
        };
        [self.retry_at, reopen].into_iter().flatten().min()
    }

    fn write(&mut self, frame: &[u8]) -> Written {
        let State::Open(tap) = &self.state else {
            self.counters.dropped_down += 1;
            return Written::Done;
        };
        match tap.get_ref().try_write(frame) {
            Ok(()) => {
                self.counters.frames_written += 1;
                if std::mem::take(&mut self.is_down) {
                    tracing::info!(tap = self.name, "TAP is up again");
                }
            }
            Err(error) => match TapFault::of(&error) {
                TapFault::Busy => return Written::Busy,
                TapFault::Refused => self.counters.dropped_refused += 1,
                TapFault::Down => {
                    self.counters.dropped_down += 1;
                    if !std::mem::replace(&mut self.is_down, true) {
                        self.counters.outages += 1;
                        tracing::warn!(tap = self.name, "TAP is down: frames to it are lost until it is up again");
                    }
                }
                TapFault::Gone => {
                    self.counters.dropped_down += 1;
                    self.on_gone(&error);
                }
            },
        }
        Written::Done
    }

    fn on_gone(&mut self, error: &io::Error) {
        self.counters.outages += 1;
        tracing::warn!(tap = self.name, %error, "TAP is gone: looking for it until it is back");
        self.state = State::Gone { retry_at: Clock.now() + REOPEN_MIN, wait: REOPEN_MIN };
    }

    fn reopen(&mut self, now: Instant, wait: Duration) {
        let tap = if self.created { Tap::open(&self.name) } else { Tap::attach(&self.name) };
        match tap.map_err(PortError::Tap).and_then(|tap| register(tap).map_err(PortError::Register)) {
            Ok(tap) => {
                tracing::info!(tap = self.name, "TAP is back");
                self.is_down = false;
                self.state = State::Open(tap);
            }
            // Absent as before, or no descriptor to be had: either may pass.
            Err(_) => {
                let wait = (wait * 2).min(REOPEN_MAX);
                self.state = State::Gone { retry_at: now + wait, wait };
            }
        }
    }
}

/// Why a port could not be opened.
pub(super) enum PortError {
    Tap(TapError),
    Register(io::Error),
}

/// Reading only: a TAP is as good as always writable, and asking would wake the loop for nothing.
fn register(tap: Tap) -> io::Result<AsyncFd<Tap>> {
    watch(tap, Interest::READABLE)
}
