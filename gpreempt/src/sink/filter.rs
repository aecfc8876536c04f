// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which events are shown. An event must pass every kind of filter that is given; of one kind, any value will do.

use std::fmt;
use std::str::FromStr;

use crate::event::{Comm, Event, GpuId, Happening, Kind, Pid};
use crate::model::Context;

/// What the user asked to see; empty = everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of, or caused by, one of these processes.
    pub pids: Vec<Pid>,
    /// Of, or caused by, a process whose name matches one of these.
    pub comms: Vec<CommGlob>,
    /// On one of these nodes.
    pub gpus: Vec<GpuArg>,
    /// One of these.
    pub kinds: Vec<Kind>,
}

impl Filter {
    /// Whether an event is shown. Resets concern every process of the GPU and pass the filters for processes.
    #[must_use]
    pub fn shows(&self, happening: &Happening, context: &Context) -> bool {
        let event = &happening.event;
        let of_all_processes = matches!(event, Event::GpuReset { .. });
        let pids = [happening.pid, Pid::known(happening.actor_pid.0)];
        let comms = [context.comm, context.actor_comm];
        passes(&self.kinds, |kind| *kind == event.kind())
            && passes(&self.gpus, |gpu| {
                event.gpu_id().is_some_and(|id| gpu.is(id))
            })
            && (of_all_processes || passes(&self.pids, |pid| pids.contains(&Some(*pid))))
            && (of_all_processes
                || passes(&self.comms, |glob| {
                    comms.iter().flatten().any(|c| glob.matches(c))
                }))
    }
}

fn passes<T>(wanted: &[T], fits: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(fits)
}

/// A node as the user names it: hexadecimal as tables and the driver's debugfs print it, or decimal as in JSON and sysfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuArg {
    decimal: Option<u32>,
    hex: Option<u32>,
}

impl GpuArg {
    /// Whether it names this node.
    #[must_use]
    pub fn is(self, gpu: GpuId) -> bool {
        self.decimal == Some(gpu.0) || self.hex == Some(gpu.0)
    }
}

impl FromStr for GpuArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (decimal, digits) = match text.strip_prefix("0x") {
            Some(digits) => (None, digits),
            None => (text.parse().ok(), text),
        };
        let hex = u32::from_str_radix(digits, 16).ok();
        if decimal.is_none() && hex.is_none() {
            return Err(
                "expected a gpu_id: 52a1 or 0x52a1 as tables print it, 21153 as JSON does"
                    .to_owned(),
            );
        }
        Ok(Self { decimal, hex })
    }
}

/// A shell pattern for process names: `*`, `?`, `[abc]`.
#[derive(Clone, Debug)]
pub struct CommGlob(glob::Pattern);

impl CommGlob {
    /// Matches the name as it is shown, that is escaped.
    #[must_use]
    pub fn matches(&self, comm: &Comm) -> bool {
        match std::str::from_utf8(comm.as_bytes()) {
            Ok(plain) if self.0.matches(plain) => true,
            _ => self.0.matches(&comm.to_string()),
        }
    }
}

impl fmt::Display for CommGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CommGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        glob::Pattern::new(text)
            .map(Self)
            .map_err(|e| e.msg.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cause, ResetPhase, UnmapFilter};

    fn unmap(pid: u32, actor: u32) -> Happening {
        let gpu_id = GpuId(0x52a1);
        Happening {
            ts_ns: 1,
            total_ns: 1,
            cause: Cause::Evict,
            status: 0,
            pid: Pid::known(pid),
            actor_pid: Pid(actor),
            actor_tid: actor,
            event: Event::RunlistUnmapped {
                gpu_id,
                filter: UnmapFilter::Dynamic,
                lock_wait_ns: 0,
                fence_ns: 0,
            },
        }
    }

    #[test]
    fn a_process_is_found_as_owner_and_as_cause() {
        let filter = Filter {
            pids: vec![Pid(7)],
            ..Filter::default()
        };
        assert!(filter.shows(&unmap(7, 1), &Context::default()));
        assert!(filter.shows(&unmap(1, 7), &Context::default()));
        assert!(!filter.shows(&unmap(1, 2), &Context::default()));
    }

    #[test]
    fn kinds_of_filters_add_up() {
        let gpus = vec!["52a1".parse().unwrap()];
        let filter = Filter {
            pids: vec![Pid(7)],
            gpus,
            kinds: vec![Kind::RunlistUnmapped],
            ..Filter::default()
        };
        assert!(filter.shows(&unmap(7, 1), &Context::default()));
        let other = Filter {
            kinds: vec![Kind::RunlistMapped],
            ..filter
        };
        assert!(!other.shows(&unmap(7, 1), &Context::default()));
    }

    #[test]
    fn resets_reach_everybody() {
        let event = Event::GpuReset {
            gpu_id: GpuId(1),
            phase: ResetPhase::Pre,
        };
        let reset = Happening {
            pid: None,
            event,
            ..unmap(0, 3)
        };
        let filter = Filter {
            pids: vec![Pid(7)],
            ..Filter::default()
        };
        assert!(filter.shows(&reset, &Context::default()));
        let other_gpu = Filter {
            gpus: vec!["0x2".parse().unwrap()],
            ..Filter::default()
        };
        assert!(!other_gpu.shows(&reset, &Context::default()));
    }

    #[test]
    fn a_gpu_is_named_either_way() {
        let gpu = GpuId(0x5201);
        for text in ["5201", "0x5201", "20993"] {
            assert!(text.parse::<GpuArg>().unwrap().is(gpu), "{text}");
        }
        assert!("gpu0".parse::<GpuArg>().is_err());
    }

    #[test]
    fn names_match_as_shells_do() {
        let glob: CommGlob = "kworker/*:[0-9]".parse().unwrap();
        assert!(
            glob.matches(&Comm::from_procfs(b"kworker/0:1\n")),
            "a slash is nothing special"
        );
        assert!(!glob.matches(&Comm::from_procfs(b"python3\n")));
        let escaped: CommGlob = "a*".parse().unwrap();
        assert!(escaped.matches(&Comm::from_procfs(b"a\xff\n")));
        assert!("[".parse::<CommGlob>().is_err());
    }
}
