//! What cannot be meant in a rule list.

use super::{Hosts, Rule, overlap};

/// One thing wrong with a rule list; indices count rules from 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Two rules have one name, so a status line could mean either.
    DuplicateName {
        /// The later rule.
        rule: usize,
        /// The one that had the name first.
        earlier: usize,
    },
    /// The rule names no ports or no hosts: it never matches.
    Empty {
        /// The rule.
        rule: usize,
    },
    /// One side is IPv4 only, the other IPv6 only: no connection has such addresses.
    FamiliesNeverMeet {
        /// The rule.
        rule: usize,
    },
    /// Earlier rules take every flow that this one names.
    Shadowed {
        /// The rule that never gets a flow.
        rule: usize,
        /// The rules that take its flows.
        by: Vec<usize>,
    },
}

impl Finding {
    /// The rule it is about.
    pub fn rule(&self) -> usize {
        match *self {
            Finding::DuplicateName { rule, .. }
            | Finding::Empty { rule }
            | Finding::FamiliesNeverMeet { rule }
            | Finding::Shadowed { rule, .. } => rule,
        }
    }
}

/// The findings in rule order.
pub(super) fn inspect(rules: &[Rule]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let earlier_rules = &rules[..index];
        if let Some(earlier) = earlier_rules.iter().position(|earlier| earlier.name == rule.name) {
            findings.push(Finding::DuplicateName { rule: index, earlier });
        }
        let (Hosts::Directed { source: a, destination: b } | Hosts::Between([a, b])) = &rule.hosts;
        if rule.ports.is_empty() || a.is_empty() || b.is_empty() {
            findings.push(Finding::Empty { rule: index });
        } else if !a.iter().any(|a| b.iter().any(|b| a.is_ipv6() == b.is_ipv6())) {
            findings.push(Finding::FamiliesNeverMeet { rule: index });
        } else if let Some(by) = overlap::shadowing(rule, earlier_rules) {
            findings.push(Finding::Shadowed { rule: index, by });
        }
    }
    findings
}
