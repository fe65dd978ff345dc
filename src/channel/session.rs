//! One keyed life of the channel: streams, packets in flight, acks, rate. Plaintext payloads in and out.

mod counters;
mod ends;
mod memory;
mod parity;

use std::time::Duration;

pub(super) use self::counters::SessionCounters;
use self::parity::Carrying;
use super::drain::DrainMeter;
use super::parity::{ParityReceiver, ParitySender};
use super::pmtu::{MtuCounters, MtuDatagram, MtuSearch};
use super::received::{ACK_DELAY_MAX, Received};
use super::repair::RepairSender;
use super::sent::{SentFrame, SentPackets};
use super::streams::Streams;
use super::tail::TailCopies;
use super::wire::{self, Cursor, Frame, Malformed};
use crate::rate::{AckReport, DeliveryEstimator, Law, Pacer, RateMode, RateSample, RttEstimator};
use crate::units::{ByteCount, Instant};

/// Something that expects an ack leaves at least this often, so that silence means something.
const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// After the first unanswered probe the next ones leave at least this often: an outage must not be followed by a
/// silence of our own making.
const PROBE_INTERVAL_MAX: Duration = Duration::from_millis(100);
/// So many probes later the path is dead rather than lossy …
const HASTY_PROBES: u32 = 20;
/// … and they leave no more often than this, however short its RTT was.
const PROBE_INTERVAL_DEAD: Duration = Duration::from_millis(25);
/// Probes that carry data; later ones are pings, enough to find out that the path is back.
const DATA_PROBES: u32 = 2;
/// A stream at rest for this long gives its memory back. On a LAN-like path a bulk stream runs empty many times per
/// second, and to take the memory anew each time would cost page faults all along.
const RELEASE_AFTER: Duration = Duration::from_secs(1);
/// Packets settled between two FORGET frames.
const FORGET_EVERY: u64 = 256;

/// What [`Session::poll_payload`] wrote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    pub(super) number: u64,
}

/// The peer closed the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// The state of one session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) streams: Streams,
    counters: SessionCounters,
    sent: SentPackets,
    received: Received,
    rtt: RttEstimator,
    delivery: DeliveryEstimator,
    law: Law,
    drain: DrainMeter,
    pacer: Pacer,
    /// Bytes a datagram costs on the wire beyond the payload: channel header and tag, UDP, IP.
    wire_overhead: u64,
    /// Longest payload of a datagram.
    payload_max: usize,
    mtu: MtuSearch,
    restricted: bool,
    tail: TailCopies,
    repair: RepairSender,
    parity: ParitySender,
    groups: ParityReceiver,
    /// When the far end last had no room for what waits behind something lost.
    crowded_at: Option<Instant>,
    /// Nothing has come for them since memory was last given back.
    groups_quiet: bool,
    /// When the RTT last showed a queue.
    queued_at: Option<Instant>,
    /// What waits to be sent is copies.
    copying: bool,
    /// What was sent before this number went another way: it says nothing of this path's RTT.
    path_began: u64,
    probes: u32,
    probe_data_due: bool,
    ping_due: bool,
    close_due: u32,
    credit_deadline: Option<Instant>,
    /// When credit that was told is told again, unless newer has been: the peer may wait for nothing else.
    credit_again_at: Option<Instant>,
    telling_again: bool,
    forgot: u64,
    low_acked: u64,
    low_lost: u64,
    widened_at: Instant,
    released_at: Instant,
    /// There was something to send and room in the window when we last looked.
    was_busy: bool,
    scratch: Vec<u8>,
}

impl Session {
    pub(super) fn new(
        now: Instant,
        even: bool,
        (mtu, wire_overhead): (MtuSearch, u64),
        mode: RateMode,
        handshake_rtt: Option<Duration>,
        (tail, repair, parity): (TailCopies, RepairSender, ParitySender),
    ) -> Self {
        let mut rtt = RttEstimator::default();
        if let Some(sample) = handshake_rtt {
            rtt.on_sample(now, sample, Duration::ZERO);
        }
        let law = Law::new(mode, ByteCount::new(mtu.current() as u64), now, rtt.srtt());
        let pacer = Pacer::new(now, law.pacing_rate());
        Session {
            streams: Streams::new(even),
            counters: SessionCounters::default(),
            sent: SentPackets::new(now),
            received: Received::default(),
            delivery: DeliveryEstimator::new(now),
            rtt,
            law,
            drain: DrainMeter::new(now),
            pacer,
            wire_overhead,
            payload_max: mtu.current() - wire_overhead as usize,
            mtu,
            restricted: false,
            tail,
            repair,
            parity,
            groups: ParityReceiver::default(),
            crowded_at: None,
            groups_quiet: true,
            queued_at: None,
            copying: false,
            path_began: 0,
            probes: 0,
            probe_data_due: false,
            ping_due: true,
            close_due: 0,
            credit_deadline: None,
            credit_again_at: None,
            telling_again: false,
            forgot: 0,
            low_acked: 0,
            low_lost: 0,
            widened_at: now,
            released_at: now,
            was_busy: false,
            scratch: Vec::new(),
        }
    }

    pub(super) fn rtt(&self) -> &RttEstimator {
        &self.rtt
    }

    pub(super) fn law(&self) -> &Law {
        &self.law
    }

    pub(super) fn in_flight(&self) -> ByteCount {
        ByteCount::new(self.sent.in_flight())
    }

    /// The peer's next packet number is near this.
    pub(super) fn expected_number(&self) -> u64 {
        self.received.next_expected()
    }

    /// Has a ping leave with the next payload.
    pub(super) fn ping(&mut self) {
        self.ping_due = true;
    }

    /// Has the next `copies` payloads say goodbye.
    pub(super) fn close(&mut self, copies: u32) {
        self.close_due = copies;
    }

    // --- what arrives ---

    /// Takes the payload of an authentic packet. A malformed one is acknowledged all the same (it did arrive), but
    /// what follows the malformed frame is ignored. `arrived`: when it reached this machine.
    pub(super) fn on_payload(
        &mut self,
        (now, arrived): (Instant, Instant),
        number: u64,
        payload: &[u8],
    ) -> Result<Option<Closed>, Malformed> {
        let mut cursor = Cursor::new(payload);
        let mut eliciting = false;
        let mut outcome = Ok(None);
        loop {
            match cursor.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    eliciting |= !matches!(frame, Frame::Ack(_) | Frame::Close);
                    match self.on_frame((now, arrived), frame) {
                        Ok(None) => {}
                        Ok(Some(closed)) => outcome = Ok(Some(closed)),
                        Err(malformed) => {
                            outcome = Err(malformed);
                            break;
                        }
                    }
                }
                Err(malformed) => {
                    eliciting = true;
                    outcome = Err(malformed);
                    break;
                }
            }
        }
        self.received.on_packet((now, arrived), number, eliciting);
        outcome
    }

    fn on_frame(&mut self, times: (Instant, Instant), frame: Frame<'_>) -> Result<Option<Closed>, Malformed> {
        match frame {
            Frame::Ping => {}
            Frame::Ack(ack) => self.on_ack(times, &ack)?,
            Frame::Forget { below } => self.received.on_forget(below),
            Frame::Credit { stream, consumed, limit } => {
                self.streams.on_credit(stream, consumed, limit).map_err(|_| Malformed)?;
                self.streams.wake_writers();
            }
            Frame::Reset { stream, code } => self.streams.on_reset(stream, code),
            Frame::Close => return Ok(Some(Closed)),
            Frame::Repair(_) | Frame::Symbol { .. } | Frame::Block { .. } | Frame::Parity { .. }
                if !self.repair.takes() =>
            {
                return Err(Malformed);
            }
            Frame::Repair(repair) => self.streams.on_repair(repair).map_err(|_| Malformed)?,
            Frame::Symbol { group, index, bytes } => {
                self.streams.on_symbol(group, index, bytes).map_err(|_| Malformed)?;
            }
            Frame::Block { group, index, block } => {
                let given = self.groups.on_block((group, index), block).map_err(|_| Malformed)?;
                self.take_given(given)?;
            }
            Frame::Parity { group, index, shape, symbol } => {
                let given = self.groups.on_symbol((group, index), (shape, symbol)).map_err(|_| Malformed)?;
                self.take_given(given)?;
            }
            Frame::Stream { stream, offset_low, fin, bytes } => {
                self.streams.on_stream(stream, offset_low, bytes, fin).map_err(|_| Malformed)?;
            }
        }
        Ok(None)
    }

    fn on_ack(&mut self, (now, arrived): (Instant, Instant), ack: &wire::AckFrame<'_>) -> Result<(), Malformed> {
        let own_loss = self.shows_own_loss(now);
        let (streams, delivery, counters) = (&mut self.streams, &mut self.delivery, &mut self.counters);
        let (mtu, tail, parity) = (&mut self.mtu, &mut self.tail, &mut self.parity);
        let mut newest: Option<(u64, crate::rate::SendSnapshot)> = None;
        let mut low_acked = 0;
        let plausible = self.sent.on_ack(arrived, &self.rtt, ack.ranges(), |acked| {
            counters.datagrams_lost_spuriously += u64::from(acked.spurious);
            low_acked += u64::from(acked.low);
            delivery.on_delivered(arrived, acked.bytes);
            if newest.is_none_or(|(number, _)| acked.number > number) {
                newest = Some((acked.number, acked.snapshot));
            }
            let mut probed = false;
            for frame in acked.frames {
                match frame {
                    SentFrame::Stream { stream, offset, len, fin } => {
                        streams.on_stream_acked(stream, offset, u64::from(len), fin);
                    }
                    SentFrame::MtuProbe(probe) => {
                        mtu.on_probe_acked(now, probe);
                        probed = true;
                    }
                    SentFrame::Credit(_) | SentFrame::Reset(..) => {}
                }
            }
            if !probed {
                mtu.on_acked(now, acked.number, acked.bytes as usize);
                tail.on_settled(false, own_loss);
                parity.on_arrived();
            }
        });
        if !plausible {
            return Err(Malformed);
        }
        self.low_acked += low_acked;
        let Some((number, snapshot)) = newest else { return Ok(()) };
        self.probes = 0;
        self.probe_data_due = false;
        let mut rtt_sample = None;
        if number == ack.largest && number >= self.path_began {
            let delay = Duration::from_micros(ack.delay_us).min(ACK_DELAY_MAX * 4);
            self.rtt.on_sample(now, arrived - snapshot.sent, delay);
            rtt_sample = Some(self.rtt.latest());
        }
        let min_rtt = self.rtt.min_rtt().unwrap_or(self.rtt.srtt());
        let sample = self.delivery.sample(&snapshot, min_rtt / 2);
        self.detect_losses(now, sample, rtt_sample);
        Ok(())
    }

    fn detect_losses(&mut self, now: Instant, sample: Option<RateSample>, rtt: Option<Duration>) {
        let own_loss = self.shows_own_loss(now);
        let (streams, counters, low_lost) = (&mut self.streams, &mut self.counters, &mut self.low_lost);
        let (mtu, tail, parity) = (&mut self.mtu, &mut self.tail, &mut self.parity);
        let mut lost_bytes = 0;
        self.sent.detect_losses(now, &self.rtt, |lost| {
            for frame in lost.frames {
                match frame {
                    SentFrame::Stream { stream, offset, len, fin } => {
                        streams.on_stream_lost(stream, offset, u64::from(len), fin);
                    }
                    SentFrame::Credit(stream) => streams.on_credit_lost(stream),
                    SentFrame::Reset(stream, code) => streams.on_reset_lost(stream, code),
                    // It carries nothing else, and is no loss.
                    SentFrame::MtuProbe(probe) => return mtu.on_probe_lost(now, probe),
                }
            }
            mtu.on_lost(lost.number, lost.bytes as usize);
            tail.on_settled(true, own_loss);
            parity.on_lost(lost.number);
            counters.datagrams_lost += 1;
            *low_lost += u64::from(lost.low);
            lost_bytes += lost.bytes;
        });
        self.mtu.fall_back(now);
        self.follow_mtu();
        let min_rtt = self.rtt.min_rtt().unwrap_or(self.rtt.srtt());
        let mut in_flight = ByteCount::new(self.sent.in_flight());
        if self.law.phase().is_none() && self.streams.is_flight_bound() {
            // An operator's pace above the path's rate fills any window; where memory ends first, that is the window.
            in_flight = in_flight.max(self.law.window());
        }
        self.law.on_ack(&AckReport {
            now,
            sample,
            rtt,
            min_rtt,
            in_flight,
            delivered: self.delivery.delivered(),
            lost: lost_bytes,
            low_acked: std::mem::take(&mut self.low_acked),
            low_lost: std::mem::take(&mut self.low_lost),
        });
        self.pacer.set_rate(now, self.law.pacing_rate(), min_rtt);
        self.bound_backlog(now, min_rtt);
        self.streams.wake_writers();
    }

    // --- time ---

    pub(super) fn on_timeout(&mut self, now: Instant) {
        if self.sent.loss_deadline(&self.rtt).is_some_and(|at| at <= now) {
            self.detect_losses(now, None, None);
        }
        if self.credit_again_at.is_some_and(|at| at <= now) {
            self.credit_again_at = None;
            self.telling_again = true;
            self.streams.settle_credits(true);
            self.credit_deadline = Some(now);
        }
        if self.probe_at().is_some_and(|at| at <= now) {
            self.probes += 1;
            if self.probes <= DATA_PROBES {
                self.resend_oldest();
            }
            self.ping_due = true;
        }
        if self.sent.last_eliciting().is_some_and(|at| now - at >= KEEP_ALIVE) {
            self.ping_due = true;
        }
        if now - self.widened_at >= self.rtt.srtt() {
            self.widened_at = now;
            self.streams.widen_windows();
        }
        if now - self.released_at >= RELEASE_AFTER {
            self.released_at = now;
            self.streams.release_idle();
            if std::mem::take(&mut self.groups_quiet) {
                self.groups.clear();
            }
            self.groups_quiet = true;
            self.sent.release_idle();
        }
    }

    /// Puts what the oldest packet in flight carried into line again, without calling it lost.
    fn resend_oldest(&mut self) {
        for frame in self.sent.oldest_in_flight() {
            match frame {
                SentFrame::Stream { stream, offset, len, fin } => {
                    self.streams.on_stream_lost(stream, offset, u64::from(len), fin);
                    self.probe_data_due = true;
                }
                SentFrame::Credit(stream) => self.streams.on_credit_lost(stream),
                SentFrame::Reset(..) | SentFrame::MtuProbe(_) => {}
            }
        }
    }

    fn probe_at(&self) -> Option<Instant> {
        if self.sent.in_flight() == 0 || self.ping_due || self.probe_data_due {
            return None;
        }
        let pto = self.rtt.pto(ACK_DELAY_MAX);
        let wait = match self.probes {
            0 => pto,
            1..=HASTY_PROBES => pto.min(PROBE_INTERVAL_MAX),
            _ => pto.clamp(PROBE_INTERVAL_DEAD, PROBE_INTERVAL_MAX),
        };
        Some(self.sent.last_eliciting()? + wait)
    }

    fn window_open(&self) -> bool {
        let datagram = self.payload_max as u64 + self.wire_overhead;
        self.sent.in_flight() + datagram <= self.law.window().as_u64()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waits = self.streams.has_ready() || self.repair.has_pending() || self.parity.has_waiting();
        let paced = (waits && !self.restricted && (self.probe_data_due || self.window_open()))
            .then(|| if self.probe_data_due { Instant::ZERO } else { self.pacer.ready_at(u64::MAX) });
        let now_due = (self.ping_due || self.close_due > 0 || self.streams.has_resets()).then_some(Instant::ZERO);
        [
            paced,
            now_due,
            self.received.deadline(),
            self.credit_deadline,
            self.credit_again_at,
            self.sent.loss_deadline(&self.rtt),
            self.probe_at(),
            self.sent.last_eliciting().map(|at| at + KEEP_ALIVE),
            self.tail_at(),
            self.parity.deadline(self.rtt.srtt()),
            self.mtu.poll_timeout(self.sent.oldest_in_flight_at(), self.rtt.srtt()).filter(|_| !self.restricted),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // --- what leaves ---

    /// Cuts datagrams to the path MTU in force from now on. What was sent longer and is lost is cut anew as well.
    fn follow_mtu(&mut self) {
        let payload_max = self.mtu.current() - self.wire_overhead as usize;
        if payload_max != self.payload_max {
            self.payload_max = payload_max;
            self.law.set_datagram(ByteCount::new(self.mtu.current() as u64));
        }
    }

    /// The peer is somewhere else: what was learned of the path to it is void. `rtt`: a first idea of the new one.
    pub(super) fn on_new_path(
        &mut self,
        now: Instant,
        (mtu, wire_overhead): (MtuSearch, u64),
        mode: RateMode,
        rtt: Duration,
    ) {
        self.mtu.replace(mtu);
        self.wire_overhead = wire_overhead;
        self.payload_max = self.mtu.current() - wire_overhead as usize;
        self.rtt = RttEstimator::default();
        self.rtt.on_sample(now, rtt, Duration::ZERO);
        self.law = Law::new(mode, ByteCount::new(self.mtu.current() as u64), now, self.rtt.srtt());
        self.pacer.set_rate(now, self.law.pacing_rate(), self.rtt.srtt());
        self.path_began = self.sent.next_number();
        self.tail.on_new_path();
        self.parity.on_new_path();
        self.queued_at = None;
    }

    /// While restricted, no stream bytes leave and no probes of the path: the peer's address is not proven.
    pub(super) fn set_restricted(&mut self, restricted: bool) {
        self.restricted = restricted;
    }

    /// The number of the next payload.
    pub(super) fn next_number(&self) -> u64 {
        self.sent.next_number()
    }

    /// The largest number the peer has acknowledged.
    pub(super) fn largest_acked(&self) -> Option<u64> {
        self.sent.largest_acked()
    }

    /// The probe timeout (RFC 9002 section 6.2).
    pub(super) fn pto(&self) -> Duration {
        self.rtt.pto(ACK_DELAY_MAX)
    }

    /// The path MTU in force, as IP packets, and what the search for it has done.
    pub(super) fn path_mtu(&self) -> (usize, MtuCounters) {
        (self.mtu.current(), self.mtu.counters())
    }

    /// Appends the payload that the search for the path MTU wants to leave now, padded or as small as can be. It leaves
    /// alone, and may be longer than all others.
    pub(super) fn poll_mtu_payload(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Payload> {
        if self.restricted {
            return None;
        }
        let oldest = self.sent.oldest_in_flight_at();
        let datagram = self.mtu.poll(now, oldest, self.rtt.srtt())?;
        let start = out.len();
        wire::put_ping(out);
        if let MtuDatagram::Probe(probe) = datagram {
            out.resize(start + usize::from(probe.size) - self.wire_overhead as usize, wire::PADDING);
            self.sent.carry(SentFrame::MtuProbe(probe));
        }
        let wire_bytes = (out.len() - start) as u64 + self.wire_overhead;
        self.pacer.on_sent(wire_bytes);
        if !self.streams.has_ready() {
            self.delivery.on_app_limited(ByteCount::new(self.sent.in_flight() + wire_bytes));
        }
        let snapshot = self.delivery.on_sent(now, ByteCount::new(self.sent.in_flight()), wire_bytes);
        let number = self.sent.next_number();
        self.sent.on_sent(snapshot, wire_bytes, false, true);
        Some(Payload { number })
    }

    /// Appends the next payload that may leave now. `first`: it begins a batch, so paced data waits until a quantum's
    /// worth of credit is there.
    pub(super) fn poll_payload(&mut self, now: Instant, first: bool, out: &mut Vec<u8>) -> Option<Payload> {
        if self.streams.has_credits() && self.credit_deadline.is_none() {
            self.credit_deadline = Some(now + ACK_DELAY_MAX);
        }
        self.protect_tail(now);
        self.protect_resent(now);
        let datagram = self.payload_max as u64 + self.wire_overhead;
        let wants_data = self.streams.has_ready() && !self.restricted;
        let open = self.window_open();
        let credit = self.pacer.available(now, self.was_busy);
        let paced = if first { self.pacer.ready_at(u64::MAX) <= now } else { credit >= datagram };
        self.was_busy = wants_data && open;
        let data = wants_data && ((open && paced) || self.probe_data_due);
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let quiet = !self.restricted && open && paced && self.close_due == 0;
        let parity = quiet && !self.probe_data_due && self.parity.is_due(self.sent.next_number(), !wants_data);
        let data = data && !parity;
        let symbol = self.repair.has_pending() && !wants_data && quiet && !parity;
        let control = self.ping_due
            || self.close_due > 0
            || self.streams.has_resets()
            || due(self.received.deadline())
            || due(self.credit_deadline);
        if !data && !control && !symbol && !parity {
            if !wants_data && open {
                self.delivery.on_app_limited(ByteCount::new(self.sent.in_flight()));
            }
            return None;
        }
        let start = out.len();
        let limit = start + self.payload_max;
        let mut eliciting = self.put_control(now, limit, out);
        if data {
            eliciting |= self.put_data(now, limit, out);
        }
        eliciting |= symbol && self.repair.put_symbol(limit - out.len(), self.payload_max, out);
        eliciting |= parity && self.parity.put_symbol(limit - out.len(), self.payload_max, out);
        if std::mem::take(&mut self.ping_due) && !eliciting {
            wire::put_ping(out);
            eliciting = true;
        }
        if self.close_due > 0 {
            self.close_due -= 1;
            wire::put_close(out);
        }
        if out.len() == start {
            return None;
        }
        let wire_bytes = (out.len() - start) as u64 + self.wire_overhead;
        if eliciting {
            self.pacer.on_sent(wire_bytes);
        }
        if !self.streams.has_ready() && open {
            // The last of what there was, or only credit and the like: its sample says how much we had, not what the
            // path can carry.
            self.delivery.on_app_limited(ByteCount::new(self.sent.in_flight() + wire_bytes));
        }
        // What is not acknowledged is no part of what the path was offered.
        let offered = if eliciting { wire_bytes } else { 0 };
        let snapshot = self.delivery.on_sent(now, ByteCount::new(self.sent.in_flight()), offered);
        let number = self.sent.next_number();
        let low = data && self.law.is_below_path_rate();
        self.sent.on_sent(snapshot, wire_bytes, low, eliciting);
        Some(Payload { number })
    }

    fn put_control(&mut self, now: Instant, limit: usize, out: &mut Vec<u8>) -> bool {
        let mut eliciting = false;
        if self.received.has_news() {
            let (delay, ranges) = self.received.acknowledge(now);
            let delay_us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX >> 2);
            wire::put_ack(ranges, delay_us, limit - out.len(), &mut self.scratch, out);
        }
        if self.sent.settled() >= self.forgot + FORGET_EVERY && limit - out.len() > 16 {
            self.forgot = self.sent.settled();
            wire::put_forget(self.forgot, out);
            eliciting = true;
        }
        while limit - out.len() > wire::RESET_LEN_MAX {
            let Some((stream, code)) = self.streams.next_reset() else { break };
            wire::put_reset(stream, code, out);
            self.sent.carry(SentFrame::Reset(stream, code));
            eliciting = true;
        }
        let mut told = false;
        while limit - out.len() > wire::CREDIT_LEN_MAX {
            let Some((stream, consumed, granted)) = self.streams.next_credit() else {
                self.credit_deadline = None;
                break;
            };
            told = true;
            wire::put_credit(stream, consumed, granted, out);
            self.sent.carry(SentFrame::Credit(stream));
            eliciting = true;
        }
        if told {
            let first = !std::mem::take(&mut self.telling_again);
            self.credit_again_at = first.then(|| now + (self.rtt.srtt() / 4).max(ACK_DELAY_MAX));
            if !first {
                self.streams.settle_credits(false);
            }
        }
        eliciting
    }

    /// Appends STREAM frames up to `limit`.
    fn put_streams(&mut self, now: Instant, limit: usize, what: Carrying, out: &mut Vec<u8>) -> bool {
        let as_block = what == Carrying::Block;
        let mut any = false;
        loop {
            // A frame that reaches the end of the datagram needs no length; whether it does is known after the cut.
            let room = limit - out.len();
            let cut = |stream| room.saturating_sub(wire::stream_overhead(stream, as_block));
            if room < 16 {
                break;
            }
            let next = match what {
                Carrying::New => self.streams.next_new_segment(cut),
                Carrying::Any | Carrying::Block => self.streams.next_segment(cut),
            };
            let Some((stream, segment)) = next else { break };
            let fills = segment.len == cut(stream);
            let more = !fills && segment.len + wire::stream_overhead(stream, true) + 16 <= room;
            let with_length = more || as_block;
            let length = with_length.then_some(segment.len as u16);
            wire::put_stream_head(stream, segment.offset, segment.fin, length, out);
            self.streams.append_to(stream, &segment, out);
            if segment.retransmission {
                self.counters.bytes_retransmitted += segment.len as u64;
            } else {
                self.note_new(now, (stream, segment.offset), segment.len, segment.fin);
            }
            // No datagram is longer than 65,535 bytes.
            let frame = SentFrame::Stream { stream, offset: segment.offset, len: segment.len as u16, fin: segment.fin };
            if !self.copying {
                self.tail.on_sent(now, frame, segment.retransmission);
            }
            self.sent.carry(frame);
            any = true;
            self.probe_data_due = false;
            if !more {
                break;
            }
        }
        any
    }

    /// Whether a sealed datagram of this length is as long as they get.
    pub(super) fn fills(&self, sealed_len: usize) -> bool {
        sealed_len == wire::SEALED_HEADER_LEN + self.payload_max + crate::crypto::TAG_LEN
    }

    /// Credit lost because nobody asked for datagrams in time.
    pub(super) fn unused_credit(&self) -> ByteCount {
        self.pacer.unused()
    }

    /// Memory of stream buffers and of the record of what is under way.
    pub(super) fn memory(&self) -> ByteCount {
        ByteCount::from(self.streams.memory() + self.sent.memory() + self.parity.memory() + self.groups.bytes())
    }
}
