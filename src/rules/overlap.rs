//! Whether earlier rules leave anything to a later one.
//!
//! A rule is a set of boxes (opener's addresses x server's addresses x ports). The later rule's boxes are cut by the
//! earlier ones; what remains is what it can still match. So two halves of a subnet are seen to cover the whole.

use super::{PortRange, Rule, Subnet};

/// Cuts tried per rule; a list that needs more is taken as not shadowed. Keeps `check` instant on any file.
const CUTS_MAX: usize = 200_000;

/// Inclusive bounds in one dimension.
type Span = (u128, u128);

/// Every flow of one family with an opener, a server and a port within these spans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FlowBox {
    ipv6: bool,
    /// Opener, server, port.
    spans: [Span; 3],
}

fn boxes(rule: &Rule) -> impl Iterator<Item = FlowBox> {
    rule.hosts.directions().flat_map(move |(openers, servers)| {
        openers.iter().flat_map(move |opener| {
            servers
                .iter()
                .filter(|server| server.is_ipv6() == opener.is_ipv6())
                .flat_map(move |server| rule.ports.iter().map(move |ports| flow_box(opener, server, ports)))
        })
    })
}

fn flow_box(opener: &Subnet, server: &Subnet, ports: &PortRange) -> FlowBox {
    let ports = (u128::from(ports.first()), u128::from(ports.last()));
    FlowBox { ipv6: opener.is_ipv6(), spans: [opener.bounds(), server.bounds(), ports] }
}

/// Appends to `rest` what of `whole` lies outside `cut`; says whether they touch.
fn subtract(whole: FlowBox, cut: &FlowBox, rest: &mut Vec<FlowBox>) -> bool {
    let overlaps = |(a, b): (&Span, &Span)| a.0 <= b.1 && b.0 <= a.1;
    if whole.ipv6 != cut.ipv6 || !whole.spans.iter().zip(&cut.spans).all(overlaps) {
        rest.push(whole);
        return false;
    }
    let mut middle = whole;
    for (axis, &(low, high)) in cut.spans.iter().enumerate() {
        let (first, last) = middle.spans[axis];
        if first < low {
            rest.push(middle.with_span(axis, (first, low - 1)));
        }
        if high < last {
            rest.push(middle.with_span(axis, (high + 1, last)));
        }
        middle = middle.with_span(axis, (first.max(low), last.min(high)));
    }
    true
}

impl FlowBox {
    fn with_span(mut self, axis: usize, span: Span) -> FlowBox {
        self.spans[axis] = span;
        self
    }
}

/// The earlier rules (indices) that together take every flow of `rule`; `None` when something is left to it.
pub(super) fn shadowing(rule: &Rule, earlier: &[Rule]) -> Option<Vec<usize>> {
    let mut left: Vec<FlowBox> = boxes(rule).take(CUTS_MAX).collect();
    if left.len() == CUTS_MAX {
        return None;
    }
    let mut by = Vec::new();
    let mut cuts = 0;
    for (index, other) in earlier.iter().enumerate() {
        // Rules for single VLANs are not added up: naming all 4094 is not a way people write "any VLAN".
        if other.vlan.is_some() && other.vlan != rule.vlan {
            continue;
        }
        let mut touched = false;
        for cut in boxes(other) {
            cuts += left.len();
            if cuts > CUTS_MAX {
                return None;
            }
            let mut rest = Vec::with_capacity(left.len());
            for whole in left {
                touched |= subtract(whole, &cut, &mut rest);
            }
            left = rest;
        }
        if touched {
            by.push(index);
        }
        if left.is_empty() {
            return Some(by);
        }
    }
    None
}
