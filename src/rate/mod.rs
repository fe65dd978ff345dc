//! The path as the sender sees it: RTT, delivery rate, the pacer, and the rate controller on top of them.

mod controller;
mod delivery;
mod pacer;
mod queue;
mod rounds;
mod rtt;

pub use controller::{AckReport, Controller, ControllerConfig, Phase};
pub use delivery::{DeliveryEstimator, RateSample, SendSnapshot};
pub use pacer::Pacer;
pub use rtt::RttEstimator;
