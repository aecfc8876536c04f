// SPDX-License-Identifier: MIT OR Apache-2.0
//! Twenty thousand random calls by four threads: nothing breaks, nothing stays held, nothing is left.

use super::List;
use crate::controller::{Answer, Command, Controller, FuzzPlan, Spec};
use crate::gpu::Job;
use crate::guest::{self, Parameter};
use crate::scene;

pub(super) const TESTS: List = &[(&["patched"], "twenty_thousand_random_calls", fuzz)];

const CALLS: usize = 20_000;
const SEED: u64 = 0x6b66_645f_6670;

fn fuzz() -> anyhow::Result<()> {
    scene::clean(|| {
        let _quick = Parameter::set("sim_unmap_us", "0")?;
        let mut jobs = [
            Job::busy(&["--profile", "model", "--queues", "4"])?,
            Job::offline(4)?,
            Job::busy(&["--profile", "simple", "--queues", "4", "--gtt"])?,
        ];
        let gpu_id = jobs[0].load.gpu_id()? as u32;
        let slots = guest::stat(0, "slots_total")? as u32;
        let mut controller = Controller::start()?;
        // In parts, so that none takes longer than anything may take.
        let (mut calls, mut succeeded, mut errnos) = (0, 0, std::collections::BTreeSet::new());
        for part in 0..10 {
            let answer = controller.order(&Command::Fuzz(FuzzPlan {
                seed: SEED + 100 * part,
                calls: CALLS / 10,
                threads: 4,
                pids: jobs.iter().map(Job::pid).collect(),
                gpu_id,
                slots,
            }))?;
            let Answer::Fuzzed(tally) = answer else {
                anyhow::bail!("not a tally: {answer}");
            };
            calls += tally.calls;
            succeeded += tally.succeeded;
            errnos.extend(tally.failed.into_keys());
            // Every file that held something is closed by now.
            for job in &mut jobs {
                job.wait_running("queues after random calls")?;
                job.goes_on()?;
            }
        }
        anyhow::ensure!(calls >= CALLS, "only {calls} calls");
        anyhow::ensure!(
            succeeded > CALLS / 10 && errnos.len() >= 4,
            "only {succeeded} of {calls} calls did something, errnos {errnos:?}: they are too wrong to reach far"
        );
        // What was done to the jobs did not change what can be done.
        for job in &mut jobs {
            let pid = job.pid();
            controller.hold(&[Spec::all(pid)])?;
            job.expect_held("after the random calls")?;
            controller.release(&[Spec::all(pid)])?;
            job.load.command("create compute")?;
            job.expect_running("with a queue created after the random calls")?;
            job.goes_on()?;
        }
        Ok(())
    })
}
