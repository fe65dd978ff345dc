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
///
/// It is asked with every datagram and changes with an ack, so the answers are kept.
#[derive(Clone, Debug)]
pub struct Law {
    model: Model,
    pacing_rate: BitRate,
    window: ByteCount,
    is_below_path_rate: bool,
}

#[derive(Clone, Debug)]
enum Model {
    /// The model of the path.
    Fair(Box<Controller>),
    /// The operator's rate.
    Fixed(FixedRate),
}

impl Law {
    /// The law of this mode. `datagram`: wire bytes of a full one; `rtt`: a first idea of it.
    pub fn new(mode: RateMode, datagram: ByteCount, now: Instant, rtt: Duration) -> Self {
        let model = match mode {
            RateMode::Fair { cap } => {
                Model::Fair(Box::new(Controller::new(ControllerConfig { cap, datagram }, now, rtt)))
            }
            RateMode::Fixed { rate } => Model::Fixed(FixedRate::new(rate, datagram, now, rtt)),
        };
        let mut law = Law { model, pacing_rate: BitRate::ZERO, window: ByteCount::ZERO, is_below_path_rate: false };
        law.keep();
        law
    }

    /// Wire bytes of a full datagram from now on (the path MTU changed).
    pub fn set_datagram(&mut self, datagram: ByteCount) {
        match &mut self.model {
            Model::Fair(controller) => controller.set_datagram(datagram),
            Model::Fixed(fixed) => fixed.set_datagram(datagram),
        }
        self.keep();
    }

    /// Takes an ack.
    pub fn on_ack(&mut self, report: &AckReport) {
        match &mut self.model {
            Model::Fair(controller) => controller.on_ack(report),
            Model::Fixed(fixed) => fixed.on_ack(report),
        }
        self.keep();
    }

    fn keep(&mut self) {
        (self.pacing_rate, self.window, self.is_below_path_rate) = match &self.model {
            Model::Fair(controller) => (controller.pacing_rate(), controller.window(), controller.is_below_path_rate()),
            Model::Fixed(fixed) => (fixed.pacing_rate(), fixed.window(), false),
        };
    }

    /// The rate to pace at, wire bytes.
    pub fn pacing_rate(&self) -> BitRate {
        self.pacing_rate
    }

    /// What the path is believed to deliver.
    pub fn delivery_rate(&self) -> BitRate {
        match &self.model {
            Model::Fair(controller) => controller.delivery_rate(),
            Model::Fixed(fixed) => fixed.delivery_rate(),
        }
    }

    /// Most bytes that may be in flight.
    pub fn window(&self) -> ByteCount {
        self.window
    }

    /// Queueing delay of the last whole round.
    pub fn queue(&self) -> Duration {
        match &self.model {
            Model::Fair(controller) => controller.queue(),
            Model::Fixed(fixed) => fixed.queue(),
        }
    }

    /// The RTT of the path without a queue where it is known to vary by itself: its mean, or somewhat less.
    pub fn varying_rtt(&self) -> Option<Duration> {
        match &self.model {
            Model::Fair(controller) => controller.varying_rtt(),
            Model::Fixed(_) => None,
        }
    }

    /// What the model is doing; `None` where there is none.
    pub fn phase(&self) -> Option<Phase> {
        match &self.model {
            Model::Fair(controller) => Some(controller.phase()),
            Model::Fixed(_) => None,
        }
    }

    /// Whether what is sent now stays below the path's rate, so that its losses are the path's own.
    pub fn is_below_path_rate(&self) -> bool {
        self.is_below_path_rate
    }

    /// Whether enough was seen to know what the path loses by itself; `true` without a model, which never learns it.
    pub fn knows_own_loss(&self) -> bool {
        match &self.model {
            Model::Fair(controller) => controller.knows_own_loss(),
            Model::Fixed(_) => true,
        }
    }

    /// Share of datagrams that the path loses by itself, in permille. Without a model it is not told apart from what a
    /// full queue drops, and none is reported.
    pub fn own_loss_permille(&self) -> u64 {
        match &self.model {
            Model::Fair(controller) => controller.own_loss_permille(),
            Model::Fixed(_) => 0,
        }
    }
}
