//! Rules against examples and against a naive reference.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

fn subnets(texts: &[&str]) -> Vec<Subnet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn rule(name: &str, hosts: Hosts, ports: &[&str]) -> Rule {
    let ports = ports.iter().map(|text| text.parse().unwrap()).collect();
    let action = Action::Accelerate { compression: Compression::Auto, weight: Weight::default() };
    Rule { name: name.to_owned(), hosts, ports, vlan: None, action }
}

fn directed(source: &[&str], destination: &[&str]) -> Hosts {
    Hosts::Directed { source: subnets(source), destination: subnets(destination) }
}

fn between(a: &[&str], b: &[&str]) -> Hosts {
    Hosts::Between([subnets(a), subnets(b)])
}

fn key(src: &str, dst: &str) -> FlowKey {
    FlowKey { vlans: VlanIds::default(), src: src.parse().unwrap(), dst: dst.parse().unwrap() }
}

fn matched(rules: &Rules, src: &str, dst: &str) -> Option<usize> {
    rules.verdict(&key(src, dst)).rule
}

#[test]
fn no_rules_bypass_everything() {
    let verdict = Rules::default().verdict(&key("10.1.8.1:50000", "10.2.8.1:8000"));
    assert_eq!(verdict, Verdict { action: Action::Bypass, rule: None });
}

#[test]
fn between_matches_whichever_side_opens() {
    let rules = Rules::new(vec![rule("vmotion", between(&["10.1.8.0/24"], &["10.2.8.0/24"]), &["8000"])]);
    assert_eq!(matched(&rules, "10.1.8.1:50000", "10.2.8.1:8000"), Some(0));
    assert_eq!(matched(&rules, "10.2.8.1:50000", "10.1.8.1:8000"), Some(0));
    assert_eq!(matched(&rules, "10.1.8.1:50000", "10.1.8.2:8000"), None, "inside one side");
    assert_eq!(matched(&rules, "10.1.8.1:8000", "10.2.8.1:50000"), None, "the port is the server's");
}

#[test]
fn directed_matches_only_its_opener() {
    let rules =
        Rules::new(vec![rule("replication", directed(&["fd00:1::/64"], &["fd00:2::/64"]), &["31031", "44046"])]);
    assert_eq!(matched(&rules, "[fd00:1::1]:50000", "[fd00:2::1]:44046"), Some(0));
    assert_eq!(matched(&rules, "[fd00:2::1]:50000", "[fd00:1::1]:44046"), None);
    assert_eq!(matched(&rules, "[fd00:1::1]:50000", "[fd00:2::1]:44045"), None);
}

#[test]
fn an_exception_before_a_wide_rule_wins() {
    let mut exception = rule("not-this-host", directed(&["10.1.8.7"], &["0.0.0.0/0"]), &["1-65535"]);
    exception.action = Action::Bypass;
    let rules = Rules::new(vec![exception, rule("all", directed(&["10.1.8.0/24"], &["10.2.8.0/24"]), &["8000"])]);
    assert_eq!(matched(&rules, "10.1.8.7:50000", "10.2.8.1:8000"), Some(0));
    assert_eq!(matched(&rules, "10.1.8.8:50000", "10.2.8.1:8000"), Some(1));
    assert_eq!(rules.findings(), []);
}

#[test]
fn a_vlan_is_the_innermost_vid() {
    let mut on_vlan = rule("vlan", between(&["10.1.8.0/24"], &["10.2.8.0/24"]), &["8000"]);
    on_vlan.vlan = Some(80);
    let rules = Rules::new(vec![on_vlan]);
    let mut key = key("10.1.8.1:50000", "10.2.8.1:8000");
    for (vids, expected) in [
        ([None, None], None),
        ([Some(80), None], Some(0)),
        ([Some(100), Some(80)], Some(0)),
        ([Some(80), Some(100)], None),
        ([Some(80), Some(0)], Some(0)),
    ] {
        key.vlans = VlanIds(vids);
        assert_eq!(rules.verdict(&key).rule, expected, "{vids:?}");
    }
}

#[test]
fn a_rule_under_an_equal_or_wider_one_is_shadowed() {
    let wide = rule("wide", between(&["10.0.0.0/8"], &["10.0.0.0/8"]), &["8000-8010"]);
    let narrow = rule("narrow", directed(&["10.2.8.0/24"], &["10.1.8.0/24"]), &["8000", "8005-8010"]);
    let rules = Rules::new(vec![wide.clone(), narrow.clone()]);
    assert_eq!(rules.findings(), [Finding::Shadowed { rule: 1, by: vec![0] }]);
    assert_eq!(Rules::new(vec![narrow, wide]).findings(), []);
}

#[test]
fn two_halves_shadow_the_whole() {
    let rules = Rules::new(vec![
        rule("low", directed(&["10.1.8.0/25"], &["10.2.0.0/16"]), &["8000"]),
        rule("elsewhere", directed(&["10.9.8.0/25"], &["10.2.0.0/16"]), &["8000"]),
        rule("high", directed(&["10.1.8.128/25"], &["10.2.0.0/16"]), &["1-9000"]),
        rule("whole", directed(&["10.1.8.0/24"], &["10.2.8.0/24"]), &["8000"]),
    ]);
    assert_eq!(rules.findings(), [Finding::Shadowed { rule: 3, by: vec![0, 2] }]);
}

#[test]
fn a_rule_for_one_vlan_does_not_shadow_the_rule_for_all() {
    let any = rule("any", between(&["10.1.8.0/24"], &["10.2.8.0/24"]), &["8000"]);
    let one = Rule { name: "one".to_owned(), vlan: Some(80), ..any.clone() };
    assert_eq!(Rules::new(vec![one.clone(), any.clone()]).findings(), []);
    assert_eq!(Rules::new(vec![any, one]).findings(), [Finding::Shadowed { rule: 1, by: vec![0] }]);
}

#[test]
fn empty_mixed_and_twice_named_rules_are_found() {
    let rules = Rules::new(vec![
        rule("a", directed(&["10.1.8.0/24"], &["fd00:2::/64"]), &["8000"]),
        rule("a", directed(&["10.1.8.0/24"], &["10.2.8.0/24"]), &[]),
        rule("b", directed(&[], &["10.2.8.0/24"]), &["8000"]),
    ]);
    assert_eq!(
        rules.findings(),
        [
            Finding::FamiliesNeverMeet { rule: 0 },
            Finding::DuplicateName { rule: 1, earlier: 0 },
            Finding::Empty { rule: 1 },
            Finding::Empty { rule: 2 },
        ]
    );
}

#[test]
fn a_rule_says_what_it_does_in_words() {
    let mut vmotion = rule("vmotion", between(&["10.1.8.0/24"], &["10.2.8.0/24"]), &["8000"]);
    assert_eq!(
        vmotion.to_string(),
        "accelerate TCP between 10.1.8.0/24 and 10.2.8.0/24, port 8000; compress while it pays"
    );
    vmotion.hosts = directed(&["0.0.0.0/0", "::/0"], &["10.2.8.0/24", "10.2.9.0/24"]);
    vmotion.ports = vec!["902".parse().unwrap(), "8000-8010".parse().unwrap()];
    vmotion.vlan = Some(80);
    vmotion.action = Action::Bypass;
    assert_eq!(
        vmotion.to_string(),
        "bypass TCP from anywhere to 10.2.8.0/24, 10.2.9.0/24, ports 902, 8000-8010, VLAN 80"
    );
}

#[test]
fn a_huge_list_is_inspected_in_bounded_time() {
    let many: Vec<String> = (0..200).map(|i| format!("10.{i}.0.0/16")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let ports: Vec<String> = (0..200).map(|i| (i * 2 + 1).to_string()).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let list = (0..50).map(|i| rule(&i.to_string(), between(&many, &many), &ports)).collect();
    assert_eq!(Rules::new(list).findings(), [], "too big to decide counts as not shadowed");
}

// A small world, so that random rules often meet, nest and cover: 8 addresses of each family, ports 1 to 8.

fn any_address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0u8..8).prop_map(|(ipv6, low)| {
        if ipv6 { Ipv6Addr::from(u128::from(low)).into() } else { Ipv4Addr::from(u32::from(low)).into() }
    })
}

fn any_subnet() -> impl Strategy<Value = Subnet> {
    (any_address(), 0u8..=3).prop_map(|(address, host_bits)| {
        let prefix_len = if address.is_ipv4() { 32 } else { 128 } - host_bits;
        match format!("{address}/{prefix_len}").parse() {
            Ok(subnet) => subnet,
            Err(ParseSubnetError::HostBits { network, .. }) => network,
            Err(error) => panic!("{error}"),
        }
    })
}

fn any_hosts() -> impl Strategy<Value = Hosts> {
    let list = || prop::collection::vec(any_subnet(), 0..4);
    prop_oneof![
        (list(), list()).prop_map(|(source, destination)| Hosts::Directed { source, destination }),
        (list(), list()).prop_map(|(a, b)| Hosts::Between([a, b])),
    ]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let range =
        (1u16..=8, 0u16..8).prop_map(|(first, more)| format!("{first}-{}", (first + more).min(8)).parse().unwrap());
    let action = prop_oneof![
        Just(Action::Bypass),
        Just(Action::Accelerate { compression: Compression::Auto, weight: Weight::default() }),
        Just(Action::Accelerate { compression: Compression::Off, weight: Weight::MAX }),
    ];
    let vlan = prop_oneof![3 => Just(None), 1 => (1u16..=2).prop_map(Some)];
    (any_hosts(), prop::collection::vec(range, 0..4), vlan, action, 0u8..20).prop_map(
        |(hosts, ports, vlan, action, name)| Rule { name: format!("rule-{name}"), hosts, ports, vlan, action },
    )
}

/// Every flow of the small world.
fn world() -> Vec<FlowKey> {
    let addresses = || (0..8u32).map(|low| IpAddr::from(Ipv4Addr::from(low)));
    let addresses = || addresses().chain((0..8u128).map(|low| IpAddr::from(Ipv6Addr::from(low))));
    let mut keys = Vec::new();
    for src in addresses() {
        for dst in addresses().filter(|dst| dst.is_ipv4() == src.is_ipv4()) {
            for port in 1..=8 {
                for vlans in [[None, None], [Some(1), None], [Some(2), None], [Some(1), Some(2)], [Some(7), None]] {
                    let (src, dst) = (SocketAddr::new(src, 50_000), SocketAddr::new(dst, port));
                    keys.push(FlowKey { vlans: VlanIds(vlans), src, dst });
                }
            }
        }
    }
    keys
}

/// The documented meaning, spelled out bit by bit without any of the room's matching code.
fn naive_matches(rule: &Rule, key: &FlowKey) -> bool {
    let within = |subnets: &[Subnet], address: IpAddr| {
        subnets.iter().any(|subnet| {
            let text = subnet.to_string();
            let (network, prefix_len) = text.split_once('/').unwrap();
            let prefix_len: u32 = prefix_len.parse().unwrap();
            match (network.parse().unwrap(), address) {
                (IpAddr::V4(network), IpAddr::V4(address)) => {
                    (0..prefix_len).all(|bit| (u32::from(network) ^ u32::from(address)) >> (31 - bit) & 1 == 0)
                }
                (IpAddr::V6(network), IpAddr::V6(address)) => {
                    (0..prefix_len).all(|bit| (u128::from(network) ^ u128::from(address)) >> (127 - bit) & 1 == 0)
                }
                _ => false,
            }
        })
    };
    let (src, dst) = (key.src.ip(), key.dst.ip());
    let hosts = match &rule.hosts {
        Hosts::Directed { source, destination } => within(source, src) && within(destination, dst),
        Hosts::Between([a, b]) => within(a, src) && within(b, dst) || within(b, src) && within(a, dst),
    };
    let port = rule.ports.iter().any(|ports| (ports.first()..=ports.last()).any(|port| port == key.dst.port()));
    let vlan = match (rule.vlan, key.vlans.0) {
        (None, _) => true,
        (Some(vlan), [Some(outer), None]) => vlan == outer,
        (Some(vlan), [_, Some(inner)]) => vlan == inner,
        (Some(_), [None, None]) => false,
    };
    hosts && port && vlan
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn verdicts_agree_with_the_naive_reference(list in prop::collection::vec(any_rule(), 0..6)) {
        let rules = Rules::new(list.clone());
        for key in world() {
            let verdict = rules.verdict(&key);
            let mut expected = Verdict { action: Action::Bypass, rule: None };
            for (index, rule) in list.iter().enumerate().rev() {
                if naive_matches(rule, &key) {
                    expected = Verdict { action: rule.action, rule: Some(index) };
                }
            }
            prop_assert_eq!(verdict, expected, "{:?}", key);
        }
    }

    /// Exact, not only sound: the world is everything the random rules can name, once wider address space and
    /// port space are cut away (subnets hold at most the 8 addresses, ports end at 8).
    #[test]
    fn a_rule_is_shadowed_exactly_when_no_flow_is_left_to_it(list in prop::collection::vec(any_rule(), 1..6)) {
        let rules = Rules::new(list.clone());
        let world = world();
        let findings = rules.findings();
        for (index, rule) in list.iter().enumerate() {
            let can_match = world.iter().any(|key| naive_matches(rule, key));
            let gets_a_flow = world.iter().any(|key| rules.verdict(key).rule == Some(index));
            let shadowed = findings.iter().any(|found| matches!(found, Finding::Shadowed { rule, .. } if *rule == index));
            prop_assert_eq!(shadowed, can_match && !gets_a_flow, "rule {} of {:?}", index, list);
        }
    }
}
