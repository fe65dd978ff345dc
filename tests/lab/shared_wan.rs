//! Several pairs of hosts on one WAN, and a WAN that changes while it carries.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::bench::{Lab, Side};
use super::hosts::Host;

/// Sends some bytes from `a` to `b` and back; the connection stays open.
fn exchange(a: &Host, b: &Host, port: u16) -> (std::net::TcpStream, std::net::TcpStream) {
    let (mut near, mut far) = a.connection(b, b.v4(port));
    for there in [true, false] {
        let (sender, receiver) = if there { (&mut near, &mut far) } else { (&mut far, &mut near) };
        sender.write_all(b"some bytes").unwrap();
        let mut read = [0; 10];
        receiver.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"some bytes");
    }
    (near, far)
}

/// Whether an appliance of `status` says that it splits connections to `address`.
fn accelerates(status: &serde_json::Value, appliance: &str, address: SocketAddr) -> bool {
    let flows = status[appliance]["flows"].as_array().unwrap_or_else(|| panic!("no {appliance} in {status}"));
    flows.iter().any(|flow| flow["dst"] == address.to_string() && flow["verdict"] == "accelerate")
}

#[test]
fn pairs_of_appliances_and_hosts_beside_them_share_a_wan_that_changes() {
    let lab = Lab::up("accelerate", "--ports 8000 --rate 100mbit --rtt 10ms --pairs 2 --beside bbr");
    lab.wait_for("the second channel is up", Duration::from_secs(15), || {
        let status = lab.everything();
        ["appliance_a2", "appliance_b2"].iter().all(|name| status[name]["channel"]["state"] == "up")
    });
    let second = [lab.host("a2", ["10.77.0.21", "fd77::21"]), lab.host("b2", ["10.77.0.22", "fd77::22"])];
    let beside = [lab.host("a3", ["10.77.0.41", "fd77::41"]), lab.host("b3", ["10.77.0.42", "fd77::42"])];
    let _open = [
        exchange(&lab.a, &lab.b, 8000),
        exchange(&second[0], &second[1], 8000),
        exchange(&beside[0], &beside[1], 8000),
        exchange(&lab.a, &second[1], 9000),
    ];
    let status = lab.everything();
    for (own, other, address) in [("", "2", lab.b.v4(8000)), ("2", "", second[1].v4(8000))] {
        for side in ["a", "b"] {
            assert!(accelerates(&status, &format!("appliance_{side}{own}"), address), "{address}: {status}");
            assert!(!accelerates(&status, &format!("appliance_{side}{other}"), address), "{address}: {status}");
        }
    }
    for appliance in ["appliance_a", "appliance_b", "appliance_a2", "appliance_b2"] {
        assert!(!accelerates(&status, appliance, beside[1].v4(8000)), "{appliance}: {status}");
    }
    assert!(beside[0].succeed(Duration::from_secs(5), "ip route").contains("congctl bbr"));

    assert!(lab.change("--rate 20mbit --ab-loss 1%"), "the lab refuses a change");
    assert!(!lab.change("--rate 0mbit"), "a WAN without a rate");
    assert!(!lab.change("--mtu 1400"), "the MTU is not among what changes");
    let wanem = &lab.everything()["wanem"];
    assert_eq!(wanem["a_to_b"]["link"]["rate_bps"], 20_000_000);
    assert_eq!(
        (&wanem["a_to_b"]["link"]["loss_ppb"], &wanem["b_to_a"]["link"]["loss_ppb"]),
        (&10_000_000.into(), &0.into())
    );
    assert_eq!((&wanem["changes"]["applied"], &wanem["changes"]["refused"]), (&1.into(), &1.into()));
    for side in [Side::A, Side::B] {
        assert_eq!(lab.channel_state(side), "up");
    }
    lab.assert_in_order();
}
