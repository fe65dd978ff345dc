//! Flows of different weights share the line by them, from the rule to the last byte.

use std::time::Duration;

use longhaul::units::{BitRate, ByteCount, Weight};

use crate::appliance::ApplianceSpec;
use crate::channel::{ChannelRun, run};
use crate::identity::End;
use crate::network::{Network, NetworkSpec};
use crate::path::PathSpec;
use crate::script::Connection;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MB: u64 = 1_000_000;
const HEAVY_PORT: u16 = 8001;
const LIGHT_PORT: u16 = 8002;
/// Connections that come while the bulk flows are under way.
const SMALL: u32 = 20;

fn path(loss: f64) -> PathSpec {
    PathSpec::new(BitRate::from_mbps(100), 20 * MS, 1.0).loss(loss, 1.0)
}

#[test]
fn two_bulk_flows_share_three_to_one_in_either_direction_and_small_ones_stay_quick() {
    for (from, loss) in [(End::A, 0.0), (End::A, 1.0), (End::B, 0.0)] {
        let appliances = ApplianceSpec { weights: &[(HEAVY_PORT, 30), (LIGHT_PORT, 10)], ..ApplianceSpec::default() };
        let transfer = |bytes| match from {
            End::A => Connection::both_ways(bytes, 0),
            End::B => Connection::both_ways(0, bytes),
        };
        let bulk = |port| Connection { port, ..transfer(200 * MB).opens_at(1500 * MS) };
        let mut spec =
            NetworkSpec::new(path(loss), appliances.wiring(1), 1).with(bulk(HEAVY_PORT)).with(bulk(LIGHT_PORT));
        for number in 0..SMALL {
            spec = spec.with(transfer(10_000).opens_at(4 * SECOND + 130 * MS * number));
        }
        let mut network = Network::new(spec);
        let to = from.other();
        let received = |network: &Network| [0, 1].map(|index| network.seen(to, index).received);
        network.run_to(3 * SECOND);
        let before = received(&network);
        network.run_to(8 * SECOND);
        let after = received(&network);
        let [heavy, light] = [0, 1].map(|index| after[index] - before[index]);
        let ratio = heavy as f64 / light as f64;
        assert!((2.85..3.15).contains(&ratio), "{from:?}, {loss} %: {heavy} and {light} bytes, {ratio:.2} to 1");
        let rate = BitRate::from_transfer(ByteCount::new(heavy + light), 5 * SECOND);
        assert!(rate > BitRate::from_mbps(88), "{rate} together");
        for number in 0..SMALL {
            let done = network.seen(to, 2 + number as usize).last_received_at.expect("received");
            let took = done - (4 * SECOND + 130 * MS * number);
            // Connecting and sending take one and a half round trips on a free line, and one more where a datagram is lost.
            let most = if loss > 0.0 { 80 * MS } else { 60 * MS };
            assert!(took < most, "{from:?}, {loss} %: {took:?} for the small one number {number}");
        }
        for end in End::BOTH {
            let flows = network.engine(end).expect("an appliance").status(0).flows;
            let weights: Vec<u8> = flows.iter().map(|flow| flow.weight.as_u8()).take(2).collect();
            assert_eq!(weights, [30, 10], "as the status of {end:?} tells it");
        }
    }
}

#[test]
fn no_stream_starves_however_unequal_the_weights() {
    for loss in [0.0, 1.0] {
        let weights = [100, 10, 10, 1];
        let mut spec = ChannelRun::new(path(loss), 1);
        (spec.streams, spec.duration) = (weights.len(), 20 * SECOND);
        spec.weights = weights.map(|weight| Weight::new(weight).expect("1 to 100")).to_vec();
        let outcome = run(&spec);
        let sum: u64 = outcome.per_stream.iter().sum();
        assert!(outcome.goodput > outcome.ceiling.percent(90), "{}", outcome.goodput);
        for (&bytes, weight) in outcome.per_stream.iter().zip(weights) {
            let part = bytes as f64 / sum as f64 / (f64::from(weight) / 121.0);
            assert!((0.9..1.1).contains(&part), "weight {weight}: {part:.3} of its part, {:?}", outcome.per_stream);
        }
    }
}
