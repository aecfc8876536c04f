// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must be so around every test of holds: nobody uses the GPUs before it, and nothing is left after it.

use std::path::Path;

use anyhow::Context;

use crate::guest;

/// Runs a test, then checks that nothing of it is left: no process, no buffer, no mapped queue.
pub(crate) fn clean(test: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    guest::wait_for_no_process().context("before the test")?;
    // Of a test before this one that failed.
    guest::eventually("files of ended processes to be closed", || {
        let objects = guest::live_objects()?;
        Ok(objects.contains(&("files".to_owned(), 0)).then_some(()))
    })?;
    let before = guest::live_objects()?;
    test()?;
    guest::wait_for_no_process().context("after the test")?;
    // The last references go in work queues.
    guest::eventually("objects of ended processes to go", || {
        Ok((guest::live_objects()? == before).then_some(()))
    })
    .with_context(|| format!("{before:?} before, {:?} now", guest::live_objects()))?;
    for gpu in 0..gpus() {
        guest::eventually("queues of ended processes to be unmapped", || {
            Ok((guest::stat(gpu, "mapped_now")? == 0).then_some(()))
        })?;
        let bad = guest::stat(gpu, "bad_packets")?;
        anyhow::ensure!(
            bad == 0,
            "GPU {gpu}: {bad} packets that the scheduler did not understand"
        );
    }
    Ok(())
}

/// How many GPUs are simulated.
pub(crate) fn gpus() -> usize {
    (0..)
        .take_while(|gpu| Path::new(&format!("/sys/kernel/debug/simgpu/{gpu}")).exists())
        .count()
}
