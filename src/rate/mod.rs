//! The path as the sender sees it: RTT, delivery rate, the pacer, and the rate controller on top of them.
//!
//! # The law
//!
//! The frame is BBR's (draft-ietf-ccwg-bbr): pace at the path's rate as estimated, bound what is in flight by rate x RTT,
//! look for more in short probes, drain what they queued. It differs where long links and busy machines showed a cost:
//!
//! - *Evidence.* BBR takes the largest delivery rate of recent rounds. Here a round compares the rates at which the same
//!   datagrams were sent and acknowledged (the bound of draft-cheng-iccrg-delivery-rate-estimation, over whole rounds).
//!   The estimate rises by no more than what was offered, so that a lump of acks is no rate, and it falls only where the
//!   path fell behind: a queue that stands although no more than the estimate is offered, or loss beyond the path's own.
//!   A sender that was late for its own pace has seen little delivered, which is no evidence against the path. So it falls
//!   to the best of the last rounds: a machine that pauses delivers little in one and makes up for it in the next, a path
//!   that has become slower does so in all of them.
//! - *Slices.* Rounds last the longer the deeper the queue. So where the RTT is known not to vary by itself, a deep queue
//!   with far less delivered than offered is looked for in quarters of an RTT: three in a row are followed at once, and
//!   what is lost while a long queue stands is not the path's own. Where it may vary, they are followed once more is lost
//!   than any weather explains.
//! - *Short paths.* A round lasts 10 ms at least: below, RTT and deliveries are those of schedulers. Where the RTT is
//!   shorter, probes are lower, longer and rarer, end with the first overflow, and a queue of a millisecond is kept up
//!   between them, since what the sender's pauses leave idle cannot be made up for.
//! - *Queue.* Cruising is corrected by the smallest RTT of a whole round above the minimum, as in Copa (NSDI 2018,
//!   section 2).
//! - *Neighbours.* A queue that stands for eight rounds is drained once. Senders of our kind see it stand from the same
//!   moment on, so that they drain it together and it is gone. One that stands on all the same is kept up by a neighbour
//!   who answers to nothing but loss: then the window is CUBIC's, like his, until the queue is gone. On short paths and
//!   under jitter the correction rests instead. One that does not change at all, whatever is sent, is none: the path has
//!   become longer, and its RTT is the smallest from then on.
//! - *Neighbours who do not answer.* BBR's first version answers neither to loss nor to delay, and takes what others leave.
//!   Where all who share a queue reduce their windows it becomes shorter by three tenths of the RTT (RFC 9438 section 4.6).
//!   After four reductions in a row that made it nowhere near as short, each from a smaller window than the one before, our
//!   law is his for 20 s, or until the window is four times as large: the best of the last rounds, with probes of a quarter
//!   in one round of eight (BBR draft section 5.3.3). Many who answer by turns look alike but for their windows, which stay
//!   what they are.
//! - *Overflow.* A neighbour who answers to loss needs K (RFC 9438 section 4.2, up to 10 s) to have back what one loss took,
//!   and who overflows the queue more often keeps him down. So for K after an overflow probes leave room in the queue, the
//!   less the more often they overflow it all the same, and only two answered in a row are followed. Where the queue is
//!   gone they go on: machines that pause overflow queues too. And where it overflows every second whatever we do, as beside
//!   BBR, nobody is spared by it. Neither counts what the first acceleration overflowed nor
//!   what a path that became slower did.
//! - *Late-comers* take a queue that was there before them for the path. Whoever sees an RTT smaller than ever joins the
//!   drain that shows it, and forgets the loss that he took for the path's own. Acceleration ends with the first round
//!   without growth where more is lost than the path loses, and, once the path is known, with a long queue: others make
//!   room as long as they see one.
//! - *Jitter.* Where the RTT varies within every round, a round or two prove nothing. As in BBR the estimate is the best of
//!   the last eight rounds, each time the mean of three. It falls to that only where the path kept less than nine tenths of
//!   what it was offered and did not lose, lost more than few datagrams may show by chance, or kept up a queue without
//!   delivering more than was offered. Eight rounds are averaged for the queue and held against the smallest such average,
//!   as far as jitter explains that; probes last three rounds and are judged by whether their excess has queued, and what
//!   they queued is drained for longer. Until the path's own loss is known, what such a probe lost is taken for it, as far
//!   as weather loses that much, and no loss is taken for an overflow that weather explains: an estimate that is far too
//!   small would else never be outgrown.
//! - *Loss.* Random loss is not congestion. It is measured on what was sent below the path's rate, and the pace is raised
//!   by it: a link that loses 5 % delivers its full rate only when offered 1 / 0.95 of it.
//! - *Acceleration* ends when two rounds, three under jitter, brought no growth while the path was offered more and, under
//!   jitter, fell behind by an RTT (an RTT that grows by itself makes deliveries late, too, but not for long), with the first
//!   quarter of an RTT that shows a queue that overflows, and on a path that was calm before as soon as a queue builds
//!   up over three quarters of an RTT while no more is delivered (HyStart++, RFC 9406, looks at the RTT alone, which makes
//!   room for nobody who comes late).
//! - *Lateness* is made up for by the pacer within bounds; a probe by a late sender is the stronger for it.
//!
//! # The operator's rate
//!
//! All of this is the mode `fair`. In the mode `fixed` the operator knows what the line carries and that nobody else is on
//! it: the pace is that rate from the first datagram on, wire bytes with retransmissions included, and nothing is probed.
//! Neither loss nor delay changes it, as on the reserved circuits that rate-based transport was made for (NETBLT, RFC 998
//! section 3). What is in flight stays bounded by two RTTs of the pace and a slack, so that a dead path stops it; an RTT that
//! grows by more than half a second widens the bound no further, so that a deep buffer is not filled without end. How much of the pace
//! arrives is measured all the same: it bounds what the hosts are told is delivered.
//!
//! It harms where the rate is more than the path has left. On a shared line everybody else is pushed aside: a TCP that reads
//! loss as congestion gives way until nearly nothing is left to it, and two `fixed` senders whose rates together exceed the
//! line drop each other's datagrams for ever. Above the line's own rate the excess is lost at a full queue and sent again,
//! which costs the queue's delay and gains nothing.

mod contest;
mod controller;
mod delivery;
mod fixed;
mod mode;
mod pacer;
mod queue;
mod rounds;
mod rtt;
#[cfg(test)]
mod tests;

pub use controller::{AckReport, Controller, ControllerConfig, Phase};
pub use delivery::{DeliveryEstimator, RateSample, SendSnapshot};
pub use fixed::FixedRate;
pub use mode::{Law, RateMode};
pub use pacer::Pacer;
pub use rtt::RttEstimator;
