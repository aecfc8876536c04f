// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon's calls as nobody would make them, while it holds real queues: generated from its OpenAPI document, by root and by a user
//! without rights, at the same time. Afterwards it answers, holds nothing that it should not, and has not grown.

use anyhow::Context;
use gpreempt::control::BackendKind;

use super::serve::{job, service};
use super::List;
use crate::caller::{self, Caller};
use crate::check::ensure_eq;
use crate::daemon::{resident_kib, Daemon, NO_GUARDS, RULES};
use crate::guest;
use crate::preemption::USER;
use crate::scene;

pub(super) const TESTS: List = &[
    (
        &["patched"],
        "hostile_calls_of_the_daemon_by_patched",
        || hostile(BackendKind::Patched),
    ),
    (
        &["control"],
        "hostile_calls_of_the_daemon_by_debug_trap",
        || hostile(BackendKind::DebugTrap),
    ),
];

const CALLS: u32 = 400;

/// Rounds after the first one, which is not counted: what is allocated once is there then.
const ROUNDS: u64 = 2;

/// Far more than the daemon's records of what was called, far less than a leak of every call would be.
const GROWTH_KIB: u64 = 6 << 10;

fn hostile(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut one, mut two) = (job("offline", 2)?, job("gang-0", 1)?);
        let mut online = service("online")?;
        let config = format!("[policy]\nname = \"manual\"\n{NO_GUARDS}{RULES}");
        let mut daemon = Daemon::start(kind, &config)?;
        let pids = [one.pid(), two.pid(), online.pid()];
        let mut before = None;
        for round in 0..=ROUNDS {
            let root = Caller::start(0, 2 * round, CALLS, &pids)?;
            let user = Caller::start(USER, 2 * round + 1, CALLS, &pids)?;
            let (answered, _) = root.finish().context("root")?;
            ensure_eq!(answered, u64::from(CALLS), "answers to root");
            let (answered, connected) = user.finish().context("the user")?;
            ensure_eq!(
                answered,
                u64::from(CALLS),
                "answers to a user without rights"
            );
            anyhow::ensure!(
                (1..=caller::MOST).contains(&connected),
                "one user had {connected} connections at once"
            );
            online.serves(1)?;
            let now = resident_kib(daemon.pid())?;
            println!("after round {round}: {now} KiB");
            let grown = now.saturating_sub(*before.get_or_insert(now));
            anyhow::ensure!(grown <= GROWTH_KIB, "the daemon has grown by {grown} KiB");
        }
        let status = daemon.status()?;
        anyhow::ensure!(
            status.holds_total > 0,
            "none of the calls had anything held"
        );
        // As an operator puts things right.
        daemon.reconfigure(kind, &config)?;
        guest::eventually("policy manual", || {
            let manual = daemon.status()?.policy == gpreempt::policy::PolicyName::Manual;
            Ok(manual.then_some(()))
        })?;
        daemon.ask("free", &pids)?;
        guest::eventually("nothing to be held", || {
            Ok((daemon.status()?.jobs_held == 0).then_some(()))
        })?;
        for job in [&mut one, &mut two] {
            job.wait_running("after all calls")?;
            job.goes_on()?;
        }
        // The log is whole.
        daemon.audit()?;
        daemon.stop()
    })
}
