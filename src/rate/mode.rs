//! Who says how fast to send: the path or the operator.

use std::time::Duration;

use super::controller::{AckReport, Controller, ControllerConfig, Phase};
use super::fixed::FixedRate;
use crate::units::{BitRate, ByteCount, Instant};

/// Who says how fast to send. Rates are in wire bytes: IP packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RateMode {
    /// The path does, and others on it get their part.
    Fair {
        /// But never faster than this.
        cap: Option<BitRate>,
    },
    /// The operator does, whatever the path loses and however long it takes.
    Fixed {
        /// This fast.
        rate: BitRate,
    },
}

impl Default for RateMode {
    fn default() -> Self {
        RateMode::Fair { cap: None }
    }
}

impl RateMode {
    /// As it is called in the configuration and in the status.
    pub const fn name(self) -> &'static str {
        match self {
            RateMode::Fair { .. } => "fair",
            RateMode::Fixed { .. } => "fixed",
        }
    }
}

/// What a session asks for its pace and its window.
#[derive(Clone, Debug)]
pub enum Law {
    /// The model of the path.
    Fair(Box<Controller>),
    /// The operator's rate.
    Fixed(FixedRate),
}

impl Law {
    /// The law of this mode. `datagram`: wire bytes of a full one; `rtt`: a first idea of it.
    pub fn new(mode: RateMode, datagram: ByteCount, now: Instant, rtt: Duration) -> Self {
        match mode {
            RateMode::Fair { cap } => {
                Law::Fair(Box::new(Controller::new(ControllerConfig { cap, datagram }, now, rtt)))
            }
            RateMode::Fixed { rate } => Law::Fixed(FixedRate::new(rate, datagram, now, rtt)),
        }
    }

    /// Wire bytes of a full datagram from now on (the path MTU changed).
    pub fn set_datagram(&mut self, datagram: ByteCount) {
        match self {
            Law::Fair(controller) => controller.set_datagram(datagram),
            Law::Fixed(fixed) => fixed.set_datagram(datagram),
        }
    }

    /// Takes an ack.
    pub fn on_ack(&mut self, report: &AckReport) {
        match self {
            Law::Fair(controller) => controller.on_ack(report),
            Law::Fixed(fixed) => fixed.on_ack(report),
        }
    }

    /// The rate to pace at, wire bytes.
    pub fn pacing_rate(&self) -> BitRate {
        match self {
            Law::Fair(controller) => controller.pacing_rate(),
            Law::Fixed(fixed) => fixed.pacing_rate(),
        }
    }

    /// What the path is believed to deliver.
    pub fn delivery_rate(&self) -> BitRate {
        match self {
            Law::Fair(controller) => controller.delivery_rate(),
            Law::Fixed(fixed) => fixed.delivery_rate(),
        }
    }

    /// Most bytes that may be in flight.
    pub fn window(&self) -> ByteCount {
        match self {
            Law::Fair(controller) => controller.window(),
            Law::Fixed(fixed) => fixed.window(),
        }
    }

    /// Queueing delay of the last whole round.
    pub fn queue(&self) -> Duration {
        match self {
            Law::Fair(controller) => controller.queue(),
            Law::Fixed(fixed) => fixed.queue(),
        }
    }

    /// What the model is doing; `None` where there is none.
    pub fn phase(&self) -> Option<Phase> {
        match self {
            Law::Fair(controller) => Some(controller.phase()),
            Law::Fixed(_) => None,
        }
    }

    /// Whether what is sent now stays below the path's rate, so that its losses are the path's own.
    pub fn is_below_path_rate(&self) -> bool {
        matches!(self, Law::Fair(controller) if controller.is_below_path_rate())
    }

    /// Share of datagrams that the path loses by itself, in permille. Without a model it is not told apart from what a
    /// full queue drops, and none is reported.
    pub fn own_loss_permille(&self) -> u64 {
        match self {
            Law::Fair(controller) => controller.own_loss_permille(),
            Law::Fixed(_) => 0,
        }
    }
}
