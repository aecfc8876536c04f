// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configuration file: rules, the policy with its parameters, the guards. `dist/gpreempt.toml` is an example with comments.
//!
//! What is not understood is an error that names its line: a misspelt guard must not be a missing one.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::class::{Rule, Rules};
use super::daemon::{Access, Metrics, Reservation, Serve};
use super::decision::PolicyName;
use super::duration;
use super::guard::Limits;

/// Everything that the file says. An empty file holds nobody.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Who is what.
    pub rules: Rules,
    /// Who decides, and the parameters of every policy.
    pub policy: Policies,
    /// What no policy can override.
    pub guards: Limits,
    /// When idle offline jobs are parked.
    pub parking: Parking,
    /// Slots that offline jobs leave free.
    pub reservation: Reservation,
    /// Where the daemon listens and how it acts.
    pub serve: Serve,
    /// Who may tell it what.
    pub access: Access,
    /// Where its metrics are served.
    pub metrics: Metrics,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no TOML, or has a key or a value that is not understood.
    #[error("{0}")]
    Parse(#[from] toml::de::Error),
    /// Its parts do not fit together.
    #[error("line {line}: {what}")]
    Invalid {
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Spanned<Rule>>,
    policy: Option<Spanned<Policies>>,
    guards: Option<Spanned<Limits>>,
    parking: Option<Spanned<Parking>>,
    #[serde(default)]
    reservation: Reservation,
    #[serde(default)]
    serve: Serve,
    #[serde(default)]
    access: Access,
    #[serde(default)]
    metrics: Metrics,
}

/// `[policy]`: which one, and the parameters of each, so that another one can be chosen without writing the file anew.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policies {
    /// Who decides.
    pub name: PolicyName,
    /// Parameters of `priority`.
    pub priority: Priority,
    /// Parameters of `timeslice`.
    pub timeslice: Timeslice,
    /// Parameters of `share`.
    pub share: Share,
    /// Parameters of `slo`.
    pub slo: Slo,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            name: PolicyName::Manual,
            priority: Priority::default(),
            timeslice: Timeslice::default(),
            share: Share::default(),
            slo: Slo::default(),
        }
    }
}

impl Policies {
    /// What is wrong with it, beside what is wrong with single keys.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if self.name == PolicyName::Slo && self.slo.target.is_none() {
            return Some("policy slo needs policy.slo.target, as in target = \"50ms\"".to_owned());
        }
        if self.slo.relax >= 1.0 {
            return Some("policy.slo.relax must be below 1".to_owned());
        }
        None
    }
}

/// `[parking]`. Time is in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parking {
    /// An offline job whose queues have been empty for so long is held until it has work; none = never.
    #[serde(deserialize_with = "duration::optional_positive")]
    pub idle_after: Option<u64>,
}

/// `[policy.priority]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Priority {
    /// How long after its last activity an online job counts as active.
    #[serde(deserialize_with = "duration::required")]
    pub linger: u64,
}

impl Default for Priority {
    fn default() -> Self {
        Self { linger: 50_000_000 }
    }
}

/// `[policy.timeslice]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeslice {
    /// After which it begins anew.
    #[serde(deserialize_with = "duration::positive")]
    pub period: u64,
    /// The part of a period in which offline jobs run, 0 to 1.
    #[serde(deserialize_with = "part")]
    pub share: f64,
}

impl Default for Timeslice {
    fn default() -> Self {
        Self {
            period: 1_000_000_000,
            share: 0.5,
        }
    }
}

/// `[policy.share]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Share {
    /// How long a turn lasts.
    #[serde(deserialize_with = "duration::positive")]
    pub turn: u64,
    /// A job without a packet for so long gives up its turn.
    #[serde(deserialize_with = "duration::required")]
    pub idle_after: u64,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            turn: 500_000_000,
            idle_after: 100_000_000,
        }
    }
}

/// `[policy.slo]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Slo {
    /// What the percentile of the latency is to stay below.
    #[serde(deserialize_with = "duration::optional_positive")]
    pub target: Option<u64>,
    /// Which percentile, 0 to 1.
    #[serde(deserialize_with = "part")]
    pub percentile: f64,
    /// The time whose requests count.
    #[serde(deserialize_with = "duration::positive")]
    pub window: u64,
    /// How often the share of offline jobs is changed, and the period in which they run that part of the time.
    #[serde(deserialize_with = "duration::positive")]
    pub period: u64,
    /// Fewer requests in the window are no evidence.
    pub min_requests: usize,
    /// The share grows only while the percentile is below this part of the target.
    #[serde(deserialize_with = "part")]
    pub relax: f64,
    /// What is added to the share.
    #[serde(deserialize_with = "part")]
    pub increase: f64,
    /// What the share is multiplied by when the target is missed.
    #[serde(deserialize_with = "part")]
    pub decrease: f64,
    /// The share never falls below this.
    #[serde(deserialize_with = "part")]
    pub floor: f64,
}

impl Default for Slo {
    fn default() -> Self {
        Self {
            target: None,
            percentile: 0.99,
            window: 10_000_000_000,
            period: 500_000_000,
            min_requests: 20,
            relax: 0.8,
            increase: 0.05,
            decrease: 0.5,
            floor: 0.05,
        }
    }
}

/// A part of a whole, 0 to 1.
pub(super) fn part<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let part = f64::deserialize(deserializer)?;
    match (0.0..=1.0).contains(&part) {
        true => Ok(part),
        false => Err(D::Error::custom("a part is a number from 0 to 1")),
    }
}

impl Config {
    /// Every value that is in force but for rules: key and value, as TOML. What has no value is left out.
    #[must_use]
    pub fn values(&self) -> Vec<(&'static str, String)> {
        let time = |ns: u64| format!("\"{}\"", duration::show(ns));
        let text = |text: &str| toml::Value::from(text).to_string();
        let (policy, guards, serve) = (&self.policy, &self.guards, &self.serve);
        let mut values = vec![
            ("policy.name", text(policy.name.name())),
            ("policy.priority.linger", time(policy.priority.linger)),
            ("policy.timeslice.period", time(policy.timeslice.period)),
            ("policy.timeslice.share", policy.timeslice.share.to_string()),
            ("policy.share.turn", time(policy.share.turn)),
            ("policy.share.idle_after", time(policy.share.idle_after)),
            ("policy.slo.percentile", policy.slo.percentile.to_string()),
            ("policy.slo.window", time(policy.slo.window)),
            ("policy.slo.period", time(policy.slo.period)),
            (
                "policy.slo.min_requests",
                policy.slo.min_requests.to_string(),
            ),
            ("policy.slo.relax", policy.slo.relax.to_string()),
            ("policy.slo.increase", policy.slo.increase.to_string()),
            ("policy.slo.decrease", policy.slo.decrease.to_string()),
            ("policy.slo.floor", policy.slo.floor.to_string()),
            ("guards.max_pause", time(guards.max_pause)),
            ("guards.min_run", time(guards.min_run)),
            ("guards.pause_share", guards.pause_share.to_string()),
            ("guards.window", time(guards.window)),
            ("guards.preemptions", guards.preemptions.to_string()),
            ("guards.rate_window", time(guards.rate_window)),
            ("guards.collective_timeout", time(guards.collective_timeout)),
            ("guards.margin", time(guards.margin)),
            ("reservation.rotate", time(self.reservation.rotate)),
            ("serve.socket", text(&serve.socket.to_string_lossy())),
            ("serve.backend", text(serve.backend.name())),
            ("serve.no_sdma", serve.no_sdma.to_string()),
            ("serve.lease", time(serve.lease)),
            ("serve.hint_expiry", time(serve.hint_expiry)),
            ("serve.poll_busy", time(serve.poll_busy)),
            ("serve.poll_idle", time(serve.poll_idle)),
        ];
        values.extend(self.access.values());
        values.extend(policy.slo.target.map(|ns| ("policy.slo.target", time(ns))));
        let parking = self.parking.idle_after;
        values.extend(parking.map(|ns| ("parking.idle_after", time(ns))));
        let slots = self.reservation.slots;
        values.extend(slots.map(|slots| ("reservation.slots", slots.to_string())));
        values.extend(
            serve
                .audit
                .as_ref()
                .map(|path| ("serve.audit", text(&path.to_string_lossy()))),
        );
        values.extend(
            self.metrics
                .listen
                .map(|address| ("metrics.listen", text(&address.to_string()))),
        );
        values
    }

    /// The line, from 1, of a place in a file's text.
    #[must_use]
    pub fn line_of(text: &str, at: usize) -> usize {
        let before = &text.as_bytes()[..at.min(text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// Checks one of several files that make a configuration together: what is wrong with its keys.
    ///
    /// # Errors
    /// What is not understood, with its line.
    pub fn parse_part(text: &str) -> Result<(), ConfigError> {
        toml::from_str::<File>(text)?;
        Ok(())
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// What is not understood, with its line.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text)?;
        let invalid = |at: usize, what: String| ConfigError::Invalid {
            line: Self::line_of(text, at),
            what,
        };
        let mut groups: Vec<(String, super::view::Class)> = Vec::new();
        for (number, rule) in (1..).zip(&file.rule) {
            let at = rule.span().start;
            if let Some(what) = rule.get_ref().fault() {
                return Err(invalid(at, format!("rule {number}: {what}")));
            }
            let Some((group, class)) = rule.get_ref().fixed_group() else {
                continue;
            };
            match groups.iter().find(|(name, _)| *name == group) {
                Some((_, other)) if *other != class => {
                    let what = format!(
                        "rule {number}: group {group:?} is {} in an earlier rule",
                        other.name()
                    );
                    return Err(invalid(at, what));
                }
                _ => groups.push((group, class)),
            }
        }
        if let Some((at, what)) = file
            .policy
            .as_ref()
            .and_then(|policy| Some((policy.span().start, policy.get_ref().fault()?)))
        {
            return Err(invalid(at, what));
        }
        if let Some((at, what)) = file
            .guards
            .as_ref()
            .and_then(|guards| Some((guards.span().start, guards.get_ref().fault()?)))
        {
            return Err(invalid(at, what));
        }
        if let Some(parking) = &file.parking {
            if parking.get_ref().idle_after.is_some() && !file.serve.no_sdma {
                let what = "parking needs serve.no_sdma = true: copies are not counted, and would be stopped unseen";
                return Err(invalid(parking.span().start, what.to_owned()));
            }
        }
        Ok(Self {
            rules: Rules(file.rule.into_iter().map(Spanned::into_inner).collect()),
            policy: file.policy.map(Spanned::into_inner).unwrap_or_default(),
            guards: file.guards.map(Spanned::into_inner).unwrap_or_default(),
            parking: file.parking.map(Spanned::into_inner).unwrap_or_default(),
            reservation: file.reservation,
            serve: file.serve,
            access: file.access,
            metrics: file.metrics,
        })
    }
}
