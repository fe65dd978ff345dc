//! What happens in one round, and how the next one is awaited.
//!
//! A round takes a bounded batch from each ready source, in turn, and lets everything leave that came of it before
//! the next source is read; so no source starves another and no queue grows between them. What is left over makes the
//! next round start without waiting, but never without looking at all sources first.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::bridge_port::{BridgePort, PortError};
use super::channel_port::ChannelPort;
use super::counters::LoopCounters;
use super::driven::Driven;
use super::moderation::Moderation;
use super::status::{self, StatusPort};
use super::watch::watch;
use super::{Error, ShellConfig};
use crate::engine::Fate;
use crate::frame::Port;
use crate::io::{Clock, FRAME_LEN_MAX, Timer};
use crate::units::Instant;

/// Frames read from one TAP in one round.
const FRAMES_PER_ROUND: usize = 64;

/// The same in bytes: 64 super-segments would be 4 MiB and keep a paced sender waiting for 5 ms.
const FRAME_BYTES_PER_ROUND: usize = 512 * 1024;

/// Receive calls on the channel's socket in one round; each takes up to 8 coalesced batches, 512 KiB.
const RECEIVES_PER_ROUND: usize = 2;

/// Frames taken from the engine between two sources.
const WRITES_PER_DRAIN: usize = 256;

/// How soon the engine is asked again while what it has cannot leave.
const BLOCKED_PAUSE: Duration = Duration::from_millis(1);

/// How long the goodbye may take.
const SHUTDOWN_MAX: Duration = Duration::from_millis(300);

/// What a wait found.
#[derive(Default)]
struct Ready {
    lan: bool,
    wan: bool,
    channel: bool,
    room: bool,
    timer: bool,
    client: Option<io::Result<UnixStream>>,
    stop: bool,
}

impl Ready {
    fn is_any(&self) -> bool {
        self.lan || self.wan || self.channel || self.room || self.timer || self.client.is_some() || self.stop
    }
}

/// The loop with everything it owns.
pub(super) struct EventLoop<D> {
    engine: D,
    name: String,
    rules: Vec<String>,
    started: Instant,
    lan: BridgePort,
    wan: BridgePort,
    channel: Option<ChannelPort>,
    status: Option<StatusPort>,
    timer: AsyncFd<Timer>,
    /// Where every frame is read to; a forwarded one is written from here.
    buffer: Box<[u8]>,
    /// The last round left something undone.
    has_more: bool,
    moderation: Moderation,
    counters: LoopCounters,
}

impl<D: Driven> EventLoop<D> {
    /// Opens everything. Must be called within a tokio runtime.
    pub(super) fn new(shell: ShellConfig, engine: D) -> Result<Self, Error> {
        let open = |name: &str| {
            BridgePort::open(name).map_err(|error| match error {
                PortError::Tap(error) => Error::Tap(error),
                PortError::Register(source) => Error::System { what: "watching a TAP", source },
            })
        };
        let (lan, wan) = (open(&shell.lan_tap)?, open(&shell.wan_tap)?);
        let channel = shell
            .listen
            .map(|address| ChannelPort::bind(address).map_err(|source| Error::Listen { address, source }))
            .transpose()?;
        let status = shell
            .status_socket
            .map(|path| StatusPort::bind(&path).map_err(|source| Error::StatusSocket { path, source }))
            .transpose()?;
        let timer = Timer::new().and_then(|timer| watch(timer, Interest::READABLE));
        Ok(EventLoop {
            engine,
            name: shell.name,
            rules: shell.rules,
            started: Clock.now(),
            lan,
            wan,
            channel,
            status,
            timer: timer.map_err(Error::system("a timer"))?,
            buffer: vec![0; FRAME_LEN_MAX].into_boxed_slice(),
            has_more: true,
            moderation: Moderation::default(),
            counters: LoopCounters::default(),
        })
    }

    /// Rounds until `stop` completes, then the goodbye.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let mut stop = pin!(stop);
        loop {
            let ready = self.wait(|context| stop.as_mut().poll(context).is_ready()).await;
            if ready.stop {
                break;
            }
            let began = Clock.now();
            self.round(ready, began);
            self.counters.on_round(Clock.now() - began);
        }
        tracing::info!(name = self.name, "stopping");
        self.shut_down().await;
        Ok(())
    }

    /// Waits until a source is ready or the earliest deadline has passed; if work is left, only looks.
    async fn wait(&mut self, mut stopped: impl FnMut(&mut Context<'_>) -> bool) -> Ready {
        let mut now = Clock.now();
        let deadline = self.poll_timeout(now);
        let mut is_due = self.has_more || deadline.is_some_and(|deadline| deadline <= now);
        if !is_due && let Some(until) = self.moderation.pause(now, deadline) {
            // The thread itself sleeps: were the runtime to wait, each arrival would wake it.
            Clock.sleep_until(until);
            now = Clock.now();
            self.moderation.on_woken(now);
            is_due = true;
        }
        if !is_due && let Err(error) = self.timer.get_mut().set(deadline) {
            tracing::error!(%error, "the timer cannot be set");
        }
        // Readiness once seen stays until a read finds nothing, so a busy source would keep us from asking the kernel
        // about the others: yield once, which does ask, whenever we would not wait anyway.
        let seen = poll_fn(|context| Poll::Ready(self.look(context, now, &mut stopped))).await;
        if is_due || seen.is_any() {
            if seen.client.is_some() || seen.stop {
                return seen;
            }
            self.counters.rounds_busy += 1;
            tokio::task::yield_now().await;
            return poll_fn(|context| Poll::Ready(self.look(context, now, &mut stopped))).await;
        }
        let ready = poll_fn(|context| {
            let ready = self.look(context, now, &mut stopped);
            if ready.is_any() { Poll::Ready(ready) } else { Poll::Pending }
        })
        .await;
        self.moderation.on_woken(Clock.now());
        ready
    }

    fn look(
        &mut self,
        context: &mut Context<'_>,
        now: Instant,
        stopped: &mut impl FnMut(&mut Context<'_>) -> bool,
    ) -> Ready {
        Ready {
            lan: self.lan.poll_readable(context),
            wan: self.wan.poll_readable(context),
            channel: self.channel.as_ref().is_some_and(|channel| channel.poll_readable(context)),
            room: self.channel.as_ref().is_some_and(|channel| channel.poll_room(context)),
            timer: self.timer.poll_read_ready(context).is_ready(),
            client: self.status.as_mut().and_then(|status| status.poll_client(context, now)),
            stop: stopped(context),
        }
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        // While nothing can leave, the engine's wish to send is always due: without the pause the loop would spin.
        let earliest = if self.is_blocked() { now + BLOCKED_PAUSE } else { Instant::ZERO };
        [
            self.engine.poll_timeout().map(|deadline| deadline.max(earliest)),
            self.lan.poll_timeout(),
            self.wan.poll_timeout(),
            self.channel.as_ref().and_then(ChannelPort::poll_timeout),
            self.status.as_ref().and_then(StatusPort::poll_timeout),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What the engine has cannot leave at the moment.
    fn is_blocked(&self) -> bool {
        !self.lan.has_room() || !self.wan.has_room() || self.channel.as_ref().is_some_and(ChannelPort::is_blocked)
    }

    fn round(&mut self, ready: Ready, now: Instant) {
        if ready.timer {
            // Until it says that it has not fired again: only then does the runtime take it for not ready.
            while let Ok(deadline) = self.timer.try_io_mut(Interest::READABLE, Timer::acknowledge) {
                if let Some(deadline) = deadline {
                    self.counters.on_timer(now - deadline);
                }
            }
        }
        self.has_more = false;
        self.handle_timeouts(now);
        self.drain(now);
        if ready.lan {
            self.read_frames(Port::Lan);
        }
        if ready.channel {
            self.receive_datagrams();
        }
        if ready.wan {
            self.read_frames(Port::Wan);
        }
        if let Some(client) = ready.client {
            self.serve(client, now);
        }
    }

    fn handle_timeouts(&mut self, now: Instant) {
        if self.engine.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.engine.handle_timeout(now);
        }
        self.lan.handle_timeout(now, |frame| self.engine.recycle(frame));
        self.wan.handle_timeout(now, |frame| self.engine.recycle(frame));
    }

    fn read_frames(&mut self, port: Port) {
        let (from, to) = match port {
            Port::Lan => (&mut self.lan, &mut self.wan),
            Port::Wan => (&mut self.wan, &mut self.lan),
        };
        let mut bytes = 0;
        for _ in 0..FRAMES_PER_ROUND {
            let Some(len) = from.read(&mut self.buffer) else {
                self.drain(Clock.now());
                return;
            };
            let frame = &self.buffer[..len];
            match self.engine.handle_frame(Clock.now(), port, frame) {
                Fate::Forward => {
                    to.forward(frame);
                    self.moderation.on_forwarded();
                }
                Fate::Taken => self.moderation.on_bytes(len),
            }
            bytes += len;
            if bytes >= FRAME_BYTES_PER_ROUND {
                break;
            }
        }
        self.has_more = true;
        self.drain(Clock.now());
    }

    fn receive_datagrams(&mut self) {
        let Some(channel) = &mut self.channel else { return };
        let mut left = RECEIVES_PER_ROUND;
        while left > 0
            && let Some(bytes) = channel.receive(&mut self.engine)
        {
            self.moderation.on_bytes(bytes);
            left -= 1;
        }
        self.has_more |= left == 0;
        self.drain(Clock.now());
    }

    /// Lets everything leave that may.
    fn drain(&mut self, now: Instant) {
        let mut left = WRITES_PER_DRAIN;
        while self.lan.has_room() && self.wan.has_room() {
            if left == 0 {
                self.has_more = true;
                break;
            }
            left -= 1;
            let Some((port, frame)) = self.engine.poll_frame() else { break };
            let to = if port == Port::Lan { &mut self.lan } else { &mut self.wan };
            if let Some(frame) = to.send(frame, now) {
                self.engine.recycle(frame);
            }
        }
        match &mut self.channel {
            Some(channel) => {
                let (bytes, has_more) = channel.transmit(&mut self.engine);
                self.moderation.on_bytes(bytes);
                self.has_more |= has_more;
            }
            // A plain bridge has nothing to send; were it otherwise, it must not pile up.
            None => while self.engine.poll_transmit(now, &mut Vec::new()).is_some() {},
        }
    }

    fn serve(&mut self, client: io::Result<UnixStream>, now: Instant) {
        self.collect();
        let Some(port) = &self.status else { return };
        let served = match client {
            Ok(stream) => {
                let engine = self.engine.status(status::BYPASSED_MAX);
                let names = (self.name.as_str(), self.rules.as_slice());
                let document = status::document(names, (self.started, now), engine, &self.counters);
                port.serve(stream, document.to_document())
            }
            Err(error) => {
                tracing::warn!(%error, "a status connection could not be taken");
                false
            }
        };
        self.counters.status_served += u64::from(served);
        self.counters.status_failed += u64::from(!served);
    }

    /// Brings what the ports count into the loop's own counters.
    fn collect(&mut self) {
        (self.counters.lan, self.counters.wan) = (self.lan.counters, self.wan.counters);
        if let Some(channel) = &mut self.channel {
            self.counters.udp = channel.counters();
        }
    }

    /// Resets the hosts' connections, says goodbye to the peer, and waits until that has left or time is up.
    async fn shut_down(&mut self) {
        const STEP: Duration = Duration::from_millis(2);
        let began = Clock.now();
        self.engine.shutdown(began);
        loop {
            let now = Clock.now();
            self.has_more = false;
            self.handle_timeouts(now);
            self.drain(now);
            let waits = self.has_more
                || self.is_blocked()
                || [self.lan.poll_timeout(), self.wan.poll_timeout()] != [None, None]
                || self.engine.poll_timeout().is_some_and(|deadline| deadline <= began + SHUTDOWN_MAX);
            if !waits || now - began > SHUTDOWN_MAX {
                break;
            }
            tokio::time::sleep(STEP).await;
        }
        self.collect();
        tracing::info!(name = self.name, counters = ?self.counters.by_name(), "stopped");
    }
}
