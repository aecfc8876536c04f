// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a queue is doing, from all that was told of it. Pure.

use super::packets::{Args, SliceName};
use crate::event::{Cause, Comm, EvictReason, Pid};

/// Who did it, and on whose behalf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct By {
    pub(super) pid: Option<Pid>,
    pub(super) comm: Option<Comm>,
}

/// The runlist of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Runlist {
    /// Nothing was seen of it.
    #[default]
    Unknown,
    Mapped,
    Unmapped(Cause, By),
}

/// Whether a queue is among those that were suspended or held. The driver tells how many of a process, not which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Among {
    #[default]
    No,
    /// It may be: others are, and not all.
    Perhaps,
    Yes,
}

impl Among {
    /// Where `count` of `all` are.
    pub(super) fn of(count: u32, all: usize) -> Self {
        match usize::try_from(count) {
            Ok(0) => Self::No,
            Ok(count) if count < all => Self::Perhaps,
            _ => Self::Yes,
        }
    }
}

/// Everything that keeps a queue off the GPU, or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) runlist: Runlist,
    pub(super) evicted: Option<EvictReason>,
    pub(super) suspended: (Among, By),
    pub(super) held: (Among, By),
    pub(super) parked: (Among, By),
    /// Updated to a share of 0, or without a ring.
    pub(super) inactive: bool,
    /// Its process is torn down: it is not mapped again.
    pub(super) dying: bool,
}

/// What a queue's track shows. Where several things keep it off, the one that ends last as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unknown,
    Mapped,
    Unmapped(Cause, By),
    Evicted(EvictReason),
    Suspended(By),
    Held(By),
    Parked(By),
    PerhapsSuspended(By),
    PerhapsHeld(By),
    PerhapsParked(By),
    Inactive,
}

impl State {
    pub(super) fn of(facts: &Facts) -> Self {
        if let Some(reason) = facts.evicted {
            return Self::Evicted(reason);
        }
        match (facts.suspended, facts.held, facts.parked) {
            ((Among::Yes, by), _, _) => return Self::Suspended(by),
            (_, (Among::Yes, by), _) => return Self::Held(by),
            (_, _, (Among::Yes, by)) => return Self::Parked(by),
            _ => {}
        }
        if facts.inactive {
            return Self::Inactive;
        }
        if let Runlist::Unmapped(cause, by) = facts.runlist {
            return Self::Unmapped(cause, by);
        }
        match (facts.suspended, facts.held, facts.parked) {
            ((Among::Perhaps, by), _, _) => Self::PerhapsSuspended(by),
            (_, (Among::Perhaps, by), _) => Self::PerhapsHeld(by),
            (_, _, (Among::Perhaps, by)) => Self::PerhapsParked(by),
            _ if facts.dying => Self::Unmapped(Cause::ProcessExit, By::default()),
            _ if facts.runlist == Runlist::Mapped => Self::Mapped,
            _ => Self::Unknown,
        }
    }

    /// Whether this state goes on as that one: a queue that is off is not taken off again.
    pub(super) fn goes_on_as(&self, next: &Self) -> bool {
        self == next || matches!((self, next), (Self::Unmapped(..), Self::Unmapped(..)))
    }

    pub(super) fn name(&self) -> SliceName {
        match self {
            Self::Unknown => "state not known yet".into(),
            Self::Mapped => "mapped".into(),
            Self::Unmapped(cause, _) => format!("unmapped ({})", cause.name()).into(),
            Self::Evicted(reason) => format!("evicted ({})", reason.name()).into(),
            Self::Suspended(_) => "suspended".into(),
            Self::Held(_) => "held".into(),
            Self::Parked(_) => "parked".into(),
            Self::PerhapsSuspended(_) => "perhaps suspended".into(),
            Self::PerhapsHeld(_) => "perhaps held".into(),
            Self::PerhapsParked(_) => "perhaps parked".into(),
            Self::Inactive => "inactive".into(),
        }
    }

    pub(super) fn args(&self) -> Args {
        let args = Args::new();
        match *self {
            Self::Unmapped(cause, by) => args.text("cause", cause.name()).by(by.pid, by.comm),
            Self::Evicted(reason) => args.text("reason", reason.name()),
            Self::Suspended(by)
            | Self::Held(by)
            | Self::Parked(by)
            | Self::PerhapsSuspended(by)
            | Self::PerhapsHeld(by)
            | Self::PerhapsParked(by) => args.by(by.pid, by.comm),
            Self::Unknown | Self::Mapped | Self::Inactive => args,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_reason_is_shown() {
        let by = By {
            pid: Some(Pid(300)),
            comm: None,
        };
        let mut facts = Facts::default();
        assert_eq!(State::of(&facts), State::Unknown);
        facts.runlist = Runlist::Mapped;
        assert_eq!(State::of(&facts), State::Mapped);
        facts.held = (Among::Perhaps, by);
        assert_eq!(State::of(&facts), State::PerhapsHeld(by));
        facts.runlist = Runlist::Unmapped(Cause::Hold, by);
        assert_eq!(State::of(&facts), State::Unmapped(Cause::Hold, by));
        facts.inactive = true;
        assert_eq!(State::of(&facts), State::Inactive);
        facts.held = (Among::Yes, by);
        assert_eq!(State::of(&facts), State::Held(by));
        facts.suspended = (Among::Yes, by);
        assert_eq!(State::of(&facts), State::Suspended(by));
        facts.evicted = Some(EvictReason::Ttm);
        assert_eq!(State::of(&facts), State::Evicted(EvictReason::Ttm));
    }

    #[test]
    fn all_or_some() {
        assert_eq!(Among::of(0, 3), Among::No);
        assert_eq!(Among::of(2, 3), Among::Perhaps);
        assert_eq!(Among::of(3, 3), Among::Yes);
        // More than are known: created before the start.
        assert_eq!(Among::of(4, 3), Among::Yes);
    }

    #[test]
    fn off_stays_off() {
        let unmapped = |cause| State::Unmapped(cause, By::default());
        assert!(unmapped(Cause::Evict).goes_on_as(&unmapped(Cause::Hold)));
        assert!(!unmapped(Cause::Evict).goes_on_as(&State::Mapped));
        assert!(State::Mapped.goes_on_as(&State::Mapped));
    }
}
