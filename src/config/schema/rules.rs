//! The section `rules`: its fields, and what a rule list as a whole cannot mean.

use std::fmt::Display;
use std::str::FromStr;

use crate::config::fields::{Field, Key, Kind, Section};
use crate::config::node::Node;
use crate::config::report::{Findings, Place, quoted};
use crate::rules::{Action, Compression, Finding, Hosts, PortRange, Rule, Rules, Subnet};
use crate::units::Weight;

/// Far beyond any list a person keeps; verdicts are linear in it.
const RULES_MAX: usize = 1_000;
/// Subnets or ports of one rule.
const ITEMS_MAX: usize = 1_000;
/// The longest subnet is 43 characters; longer texts are not worth repeating in a message.
const ITEM_LEN_MAX: usize = 64;
const WEIGHT_RANGE: std::ops::RangeInclusive<i128> = Weight::MIN.as_u8() as i128..=Weight::MAX.as_u8() as i128;

pub(super) static RULE: Kind = Kind {
    name: "a rule",
    keys: &[
        Key { name: "name", example: "name: vmotion" },
        Key { name: "between", example: "between: [10.1.8.0/24, 10.2.8.0/24]" },
        Key { name: "source", example: "source: [10.1.8.0/24] or source: any" },
        Key { name: "destination", example: "destination: [10.2.8.0/24] or destination: any" },
        Key { name: "ports", example: "ports: [8000, 9000-9010] or ports: any" },
        Key { name: "vlan", example: "vlan: 80" },
        Key { name: "action", example: "action: accelerate or action: bypass" },
        Key { name: "compression", example: "compression: auto or compression: off" },
        Key { name: "weight", example: "weight: 20" },
    ],
};

pub(super) fn read(field: &Field<'_>, kinds: &[&'static Kind], findings: &mut Findings) -> Option<Rules> {
    if matches!(field.node, Node::List(list) if list.is_empty()) {
        return Some(Rules::default());
    }
    if !matches!(field.node, Node::List(_) | Node::Null) {
        let message = format_args!("expected a list, found {}; start every rule with \"- name:\"", field.node.kind());
        findings.error(&field.place, message);
        return None;
    }
    let items = field.items(RULES_MAX, findings)?;
    let count = items.len();
    // A rule with a fault of its own is left out here, so that the list is inspected with what is known to be meant.
    let (sections, rules): (Vec<Section<'_>>, Vec<Rule>) = items
        .iter()
        .filter_map(|item| {
            let section = item.section(&RULE, kinds, findings)?;
            let rule = read_rule(&section, findings)?;
            Some((section, rule))
        })
        .unzip();
    let rules = Rules::new(rules);
    for finding in rules.findings() {
        tell(&finding, &rules, &sections, findings);
    }
    (rules.list().len() == count).then_some(rules)
}

fn tell(finding: &Finding, rules: &Rules, sections: &[Section<'_>], findings: &mut Findings) {
    let section = &sections[finding.rule()];
    let place = |key| section.optional(key).map_or_else(|| section.place.clone(), |field| field.place);
    let called = |rule: usize| format!("{} {}", sections[rule].place.field, quoted(&rules.list()[rule].name));
    match finding {
        Finding::DuplicateName { earlier, .. } => {
            let message = format_args!("{} has this name already; choose another", called(*earlier));
            findings.error(&place("name"), message);
        }
        // Empty lists were refused one by one.
        Finding::Empty { .. } => {}
        Finding::FamiliesNeverMeet { .. } => {
            let message = "one side is IPv4 only, the other IPv6 only, so this never matches; name both in one family";
            findings.error(&section.place, message);
        }
        Finding::Shadowed { by, .. } => {
            let by = by.iter().map(|&rule| called(rule)).take(3).collect::<Vec<_>>().join(", ");
            let remedy = "move this rule up or delete it";
            findings.error(
                &section.place,
                format_args!("never gets a flow, because {by} already takes them all; {remedy}"),
            );
        }
    }
}

fn read_rule(section: &Section<'_>, findings: &mut Findings) -> Option<Rule> {
    let name = section.required("name", findings).and_then(|field| {
        let text = field.text(findings)?;
        if text.chars().count() > ITEM_LEN_MAX || text.chars().any(char::is_control) {
            let message =
                format_args!("{} is not a name; write at most {ITEM_LEN_MAX} printable characters", quoted(text));
            findings.error(&field.place, message);
            return None;
        }
        Some(text.to_owned())
    });
    let hosts = read_hosts(section, findings);
    let ports = section.required("ports", findings).and_then(|field| read_ports(&field, findings));
    let vlan = match section.optional("vlan") {
        Some(field) => field.whole(1..=4094, findings).map(|vid| u16::try_from(vid).ok()),
        None => Some(None),
    };
    let compression = match section.optional("compression") {
        Some(field) => field.word(&[("auto", Compression::Auto), ("off", Compression::Off)], findings),
        None => Some(Compression::Auto),
    };
    let weight = match section.optional("weight") {
        Some(field) => {
            let weight = field.whole(WEIGHT_RANGE, findings);
            weight.and_then(|weight| u8::try_from(weight).ok()).and_then(Weight::new)
        }
        None => Some(Weight::default()),
    };
    let action = section.required("action", findings).and_then(|field| {
        let accelerate =
            compression.zip(weight).map(|(compression, weight)| Action::Accelerate { compression, weight });
        field.word(&[("accelerate", accelerate), ("bypass", Some(Action::Bypass))], findings).flatten()
    });
    if action == Some(Action::Bypass) {
        let idle = ["compression", "weight"].map(|key| section.optional(key));
        let is_clean = idle.iter().all(Option::is_none);
        for field in idle.into_iter().flatten() {
            findings.error(&field.place.key(), "means nothing where action is bypass; delete it");
        }
        if !is_clean {
            return None;
        }
    }
    Some(Rule { name: name?, hosts: hosts?, ports: ports?, vlan: vlan?, action: action? })
}

fn read_hosts(section: &Section<'_>, findings: &mut Findings) -> Option<Hosts> {
    let (between, source, destination) =
        (section.optional("between"), section.optional("source"), section.optional("destination"));
    match (between, source, destination) {
        (Some(between), None, None) => {
            let [a, b] = read_sides(&between, findings)?;
            warn_of_lone_families([&a, &b], findings);
            Some(Hosts::Between([subnets(a), subnets(b)]))
        }
        (Some(between), ..) => {
            let message = "stands beside source or destination; keep between (both ways) or those two (one way)";
            findings.error(&between.place.key(), message);
            None
        }
        (None, None, None) => {
            let remedy = "add between: [10.1.8.0/24, 10.2.8.0/24] (both ways), or source: and destination: (one way)";
            section.missing("between", remedy, findings);
            None
        }
        (None, source, destination) => {
            let mut side = |field: Option<Field<'_>>, key, other| match field {
                Some(field) => read_subnets(&field, findings),
                None => {
                    let remedy =
                        format_args!("add {key}: with subnets, or {key}: any; or use between: instead of {other}:");
                    section.missing(key, remedy, findings);
                    None
                }
            };
            let source = side(source, "source", "destination");
            let destination = side(destination, "destination", "source");
            let (source, destination) = (source?, destination?);
            warn_of_lone_families([&source, &destination], findings);
            Some(Hosts::Directed { source: subnets(source), destination: subnets(destination) })
        }
    }
}

fn read_sides(field: &Field<'_>, findings: &mut Findings) -> Option<[Vec<Placed>; 2]> {
    let items = match field.node {
        Node::List(list) if list.len() != 2 => {
            let count = list.len();
            let remedy = "write two, each a subnet or a list: [[10.1.8.0/24, 10.1.9.0/24], 10.2.8.0/24]";
            findings.error(&field.place, format_args!("needs two sides and has {count}; {remedy}"));
            return None;
        }
        Node::List(_) => field.items(2, findings)?,
        node => {
            let message = format_args!("expected a list of two sides, found {}; write {}", node.kind(), field.example);
            findings.error(&field.place, message);
            return None;
        }
    };
    let mut sides = items.iter().map(|side| read_subnets(side, findings));
    let (a, b) = (sides.next()?, sides.next()?);
    Some([a?, b?])
}

/// A subnet and where it stands.
type Placed = (Subnet, Place);

fn subnets(placed: Vec<Placed>) -> Vec<Subnet> {
    placed.into_iter().map(|(subnet, _)| subnet).collect()
}

fn read_subnets(field: &Field<'_>, findings: &mut Findings) -> Option<Vec<Placed>> {
    if matches!(field.node, Node::Text(text) if text == "any") {
        return Some(vec![(Subnet::ANY_IPV4, field.place.clone()), (Subnet::ANY_IPV6, field.place.clone())]);
    }
    let items = field.items(ITEMS_MAX, findings)?;
    let placed = read_each(&items, findings, |item, findings| {
        let text = item.text(findings)?;
        parse(text, &item.place, findings)
    })?;
    warn_of_covered(&placed, Subnet::covers, findings);
    Some(placed)
}

fn read_ports(field: &Field<'_>, findings: &mut Findings) -> Option<Vec<PortRange>> {
    if matches!(field.node, Node::Text(text) if text == "any") {
        return Some(vec![PortRange::ANY]);
    }
    let items = field.items(ITEMS_MAX, findings)?;
    let placed = read_each(&items, findings, |item, findings| {
        let text = match item.node {
            Node::Int(number) => number.to_string(),
            _ => item.text(findings)?.to_owned(),
        };
        parse(&text, &item.place, findings)
    })?;
    let covers = |wide: &PortRange, narrow: &PortRange| wide.first() <= narrow.first() && narrow.last() <= wide.last();
    warn_of_covered(&placed, covers, findings);
    Some(placed.into_iter().map(|(ports, _)| ports).collect())
}

/// A subnet or a port.
fn parse<T: FromStr<Err: Display>>(text: &str, place: &Place, findings: &mut Findings) -> Option<T> {
    if text.len() > ITEM_LEN_MAX {
        findings.error(place, format_args!("{} is too long to be a subnet or a port", quoted(text)));
        return None;
    }
    text.parse().map_err(|error| findings.error(place, error)).ok()
}

/// Reads every item, so that every fault is told; `None` if any has one.
fn read_each<'a, T>(
    items: &[Field<'a>],
    findings: &mut Findings,
    mut read: impl FnMut(&Field<'a>, &mut Findings) -> Option<T>,
) -> Option<Vec<(T, Place)>> {
    let read: Vec<_> = items.iter().map(|item| read(item, findings).map(|value| (value, item.place.clone()))).collect();
    read.into_iter().collect()
}

/// An entry that another one of the same list contains is harmless, but was probably meant to be something else.
fn warn_of_covered<T: Display>(placed: &[(T, Place)], covers: impl Fn(&T, &T) -> bool, findings: &mut Findings) {
    for (index, (narrow, place)) in placed.iter().enumerate() {
        let wider = placed.iter().enumerate().find(|(other, (wide, _))| {
            // Of two equal entries only the later one is told.
            covers(wide, narrow) && *other != index && (*other < index || !covers(narrow, wide))
        });
        if let Some((_, (wide, _))) = wider {
            findings.warning(place, format_args!("{narrow} is already part of {wide} in the same list; delete one"));
        }
    }
}

/// A subnet whose family the other side lacks never matches; if that holds for all, it is an error told elsewhere.
fn warn_of_lone_families(sides: [&Vec<Placed>; 2], findings: &mut Findings) {
    let [a, b] = sides;
    let meets = |side: &Vec<Placed>, subnet: &Subnet| side.iter().any(|(other, _)| other.is_ipv6() == subnet.is_ipv6());
    if !a.iter().any(|(subnet, _)| meets(b, subnet)) {
        return;
    }
    for (side, other) in [(a, b), (b, a)] {
        // `any` names both families in one word, and means whatever the other side has.
        let is_any =
            matches!(side.as_slice(), [(Subnet::ANY_IPV4, first), (Subnet::ANY_IPV6, second)] if first == second);
        for (subnet, place) in side.iter().filter(|(subnet, _)| !is_any && !meets(other, subnet)) {
            let family = if subnet.is_ipv6() { "IPv6" } else { "IPv4" };
            let message = format_args!("{subnet} never matches: the other side has no {family} subnet; add one there");
            findings.warning(place, message);
        }
    }
}
