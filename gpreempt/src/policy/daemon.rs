// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[serve]`, `[reservation]`, `[access]` and `[metrics]`: what the daemon needs to know beside whom to hold. Data only.

use std::fmt;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::duration;

/// Where the daemon listens unless its configuration says otherwise.
pub const SOCKET: &str = "/run/gpreempt/gpreempt.sock";

/// `[serve]`: where it listens and how it acts. Times are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Serve {
    /// Where it listens.
    pub socket: PathBuf,
    /// By which means it stops queues; `auto` = the best that works here.
    pub backend: Means,
    /// Leave SDMA queues alone.
    pub no_sdma: bool,
    /// How long queues stay stopped if the daemon hangs.
    #[serde(deserialize_with = "lease")]
    pub lease: u64,
    /// Where every decision and its outcome is written; none = nowhere.
    pub audit: Option<PathBuf>,
    /// A hint ends after so long unless it says otherwise.
    #[serde(deserialize_with = "duration::positive")]
    pub hint_expiry: u64,
    /// How often queues are looked at for waiting packets while something runs.
    #[serde(deserialize_with = "poll")]
    pub poll_busy: u64,
    /// How often at least, when nothing has run for a while.
    #[serde(deserialize_with = "poll")]
    pub poll_idle: u64,
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            socket: SOCKET.into(),
            backend: Means::Auto,
            no_sdma: false,
            lease: 2_000_000_000,
            audit: None,
            hint_expiry: 10_000_000_000,
            poll_busy: 1_000_000,
            poll_idle: 1_000_000_000,
        }
    }
}

/// `[reservation]`: hardware slots of every GPU that the offline jobs together leave free, by a patched driver.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reservation {
    /// So many of each GPU; none = no reservation.
    pub slots: Option<std::num::NonZeroU32>,
    /// How long those of the offline queues that do not fit wait for their turn. In nanoseconds.
    #[serde(deserialize_with = "rotate")]
    pub rotate: u64,
}

impl Default for Reservation {
    fn default() -> Self {
        Self {
            slots: None,
            rotate: 1_000_000_000,
        }
    }
}

/// As `reserve --rotate`.
fn rotate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, 1_000_000, 3_600_000_000_000, "turn")
}

/// A backend, by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// The best that works here.
    #[default]
    Auto,
    /// See `control::BackendKind`.
    Patched,
    /// Likewise.
    Agent,
    /// Likewise.
    DebugTrap,
    /// Likewise.
    Criu,
}

impl Means {
    /// The name that the file uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Patched => "patched",
            Self::Agent => "agent",
            Self::DebugTrap => "debug-trap",
            Self::Criu => "criu",
        }
    }
}

/// As `preempt --lease`.
fn lease<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, 100_000_000, 3_600_000_000_000, "lease")
}

fn poll<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, 100_000, 1_000_000_000, "poll interval")
}

fn between<'de, D: Deserializer<'de>>(
    deserializer: D,
    least: u64,
    most: u64,
    what: &str,
) -> Result<u64, D::Error> {
    match duration::required(deserializer)? {
        ns if (least..=most).contains(&ns) => Ok(ns),
        _ => Err(D::Error::custom(format_args!(
            "a {what} is {} to {}",
            duration::show(least),
            duration::show(most)
        ))),
    }
}

/// `[access]`: who may do what, beside root, who may do all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// Look: status, jobs, queues, the audit log, metrics.
    pub read: Vec<Who>,
    /// Say that online work is there, for which others are stopped.
    pub hint: Vec<Who>,
    /// Register processes of any user and as any class. Everybody may register own processes as offline.
    pub register: Vec<Who>,
    /// Have jobs held, or not held.
    pub hold: Vec<Who>,
    /// Change the policy, read the configuration again, go on after a hang.
    pub policy: Vec<Who>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            read: vec![Who::All],
            hint: Vec::new(),
            register: Vec::new(),
            hold: Vec::new(),
            policy: Vec::new(),
        }
    }
}

impl Access {
    /// Every value, as TOML.
    pub(super) fn values(&self) -> [(&'static str, String); 5] {
        let list = |who: &[Who]| {
            let all: Vec<toml::Value> = who.iter().map(|who| who.to_string().into()).collect();
            toml::Value::Array(all).to_string()
        };
        [
            ("access.read", list(&self.read)),
            ("access.hint", list(&self.hint)),
            ("access.register", list(&self.register)),
            ("access.hold", list(&self.hold)),
            ("access.policy", list(&self.policy)),
        ]
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::User(name) => f.write_str(name),
            Self::Group(name) => write!(f, "@{name}"),
        }
    }
}

/// `*`, a user by name or number, or a group as `@name` or `@number`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everybody who can connect.
    All,
    /// A user.
    User(String),
    /// Members of a group.
    Group(String),
}

impl<'de> Deserialize<'de> for Who {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match (text.as_str(), text.strip_prefix('@')) {
            ("" | "@", _) => Err(D::Error::custom("a user, @group or * is needed here")),
            ("*", _) => Ok(Self::All),
            (_, Some(group)) => Ok(Self::Group(group.to_owned())),
            _ => Ok(Self::User(text)),
        }
    }
}

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// A port of this host alone where `/metrics` is served to everybody, as in `127.0.0.1:9464`; none = only on the socket.
    #[serde(deserialize_with = "loopback")]
    pub listen: Option<std::net::SocketAddr>,
}

fn loopback<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<std::net::SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse::<std::net::SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(Some(address)),
        Ok(_) => Err(D::Error::custom(format_args!(
            "{text:?} can be reached from other hosts: 127.0.0.1 or [::1] is needed here"
        ))),
        Err(_) => Err(D::Error::custom(format_args!(
            "{text:?} is no address and port, as in \"127.0.0.1:9464\""
        ))),
    }
}
