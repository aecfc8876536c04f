// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recordings of several models side by side.

use std::collections::BTreeSet;
use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;

use super::conclude::{peak, Peak};
use super::run::Run;
use super::steady;
use crate::sink::table::{strong, Layout};
use crate::sink::units::Nanos;
use crate::stat::measure::Measure;

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Row {
    /// The recording.
    pub name: String,
    /// Its length.
    pub duration_ns: u64,
    /// Processes with queues.
    pub processes: usize,
    /// GPUs that they used.
    pub gpus: usize,
    /// Queues at once, when they were most.
    pub peak: Peak,
    /// Most compute queues at once on one GPU.
    pub compute_on_one_gpu: u64,
    /// Compute slots that a GPU's scheduler may use; null if it is not known.
    pub slots: Option<u64>,
    /// Queues created, or there at the start.
    pub queues: u64,
    /// Queues were kept from the beginning to the end; null without queues.
    pub steady: Option<bool>,
    /// Runlists that its processes took off, per second.
    pub unmaps_own_per_s: f64,
    /// Median time to take a runlist off; null if none was.
    pub unmap_p50_ns: Option<u64>,
    /// Share of the time that its queues were off the GPU after they were mapped first, over all of them.
    pub off_share: Option<f64>,
    /// Records that were lost.
    pub lost: u64,
}

impl Row {
    /// `5/24`: most compute queues on one GPU, of its slots.
    pub(super) fn on_one_gpu(&self) -> String {
        match self.slots {
            Some(slots) => format!("{}/{slots}", self.compute_on_one_gpu),
            None => self.compute_on_one_gpu.to_string(),
        }
    }

    /// Of one run.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        let gpus: BTreeSet<_> = run.lives.iter().map(|life| life.key.gpu_id).collect();
        let compute = gpus.iter().map(|gpu_id| {
            let on = run.lives.iter().filter(|life| life.key.gpu_id == *gpu_id);
            peak(run, on.filter(|life| !life.queue_type.is_sdma())).compute
        });
        let slots = run
            .gpus
            .iter()
            .filter(|gpu| gpus.contains(&gpu.gpu_id) && gpu.num_cp_queues > 0)
            .map(|gpu| gpu.num_cp_queues);
        let lived: u64 = run
            .lives
            .iter()
            .map(|life| life.gone_ns(run).saturating_sub(life.born_ns(run)))
            .sum();
        let off: u64 = run.members.iter().map(|member| member.off_ns).sum();
        let seconds = run.duration_ns() as f64 / 1e9;
        Self {
            name: run.name.clone(),
            duration_ns: run.duration_ns(),
            processes: run.users().len(),
            gpus: gpus.len(),
            peak: peak(run, run.lives.iter()),
            compute_on_one_gpu: compute.max().unwrap_or(0),
            slots: slots.min(),
            queues: run.lives.len() as u64 + run.lives_dropped,
            steady: steady::of(run).map(|steady| steady.holds()),
            unmaps_own_per_s: if seconds > 0.0 {
                run.unmaps_own as f64 / seconds
            } else {
                0.0
            },
            unmap_p50_ns: run
                .latencies
                .latency(Measure::Unmap)
                .and_then(|latency| Some(latency.line()?.p50_ns)),
            off_share: (lived > 0).then(|| off as f64 / lived as f64),
            lost: run.lost,
        }
    }
}

/// The table for people.
///
/// # Errors
/// When it cannot be written.
pub fn write(out: &mut impl Write, rows: &[Row], layout: Layout) -> io::Result<()> {
    let wide = rows.iter().map(|row| row.name.chars().count()).max();
    let wide = wide.unwrap_or(0).clamp(5, 32);
    let head = format!(
        "{:wide$} {:>9} {:>4} {:>6} {:>7} {:>4} {:>8} {:>7} {:>9} {:>8} {:>7} {:>6}",
        "MODEL",
        "PROCESSES",
        "GPUS",
        "QUEUES",
        "COMPUTE",
        "COPY",
        "PER GPU",
        "CREATED",
        "KEPT",
        "UNMAPS/S",
        "UNMAP",
        "OFF"
    );
    writeln!(out, "{}", strong(&head, layout))?;
    for row in rows {
        let per_gpu = row.on_one_gpu();
        let kept = match row.steady {
            Some(true) => "all",
            Some(false) => "not all",
            None => "-",
        };
        let unmap = row
            .unmap_p50_ns
            .map_or_else(|| "-".to_owned(), |ns| Nanos(ns).to_string());
        let off = row
            .off_share
            .map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0));
        let name: String = row.name.chars().take(wide).collect();
        writeln!(
            out,
            "{name:wide$} {:>9} {:>4} {:>6} {:>7} {:>4} {per_gpu:>8} {:>7} {kept:>9} {:>8.1} {unmap:>7} {off:>6}",
            row.processes,
            row.gpus,
            row.peak.all(),
            row.peak.compute,
            row.peak.sdma,
            row.queues,
            row.unmaps_own_per_s,
        )?;
        if row.lost > 0 {
            writeln!(out, "  {} records lost: its numbers are too low", row.lost)?;
        }
    }
    writeln!(
        out,
        "\nQUEUES to COPY: at once, when they were most. PER GPU: compute queues on one GPU, of its slots. UNMAPS/S: runlists that its \
         own\nprocesses took off. UNMAP: median of how long that took. OFF: share of their lives that its queues were off the GPU."
    )
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::{run_of, S};
    use super::*;

    #[test]
    fn a_row_is_what_the_run_was() {
        let mut run = run_of(&[(7, 0, 1, Some(9)), (7, 1, 1, Some(9)), (8, 0, 2, None)]);
        run.unmaps_own = 20;
        run.members[0].off_ns = 3 * S;
        let row = Row::of(&run);
        assert_eq!((row.processes, row.gpus, row.queues), (2, 1, 3));
        assert_eq!((row.peak.compute, row.compute_on_one_gpu), (3, 3));
        assert_eq!(row.unmaps_own_per_s, 2.0);
        assert_eq!(row.off_share, Some(3.0 / 24.0));
        assert_eq!(row.steady, Some(true));
        let none = Row::of(&run_of(&[]));
        assert_eq!((none.steady, none.off_share), (None, None));
    }

    #[test]
    fn losses_stand_below_their_row() {
        let mut run = run_of(&[(7, 0, 1, Some(9))]);
        run.lost = 3;
        let mut out = Vec::new();
        write(&mut out, &[Row::of(&run)], Layout::default()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("3 records lost"), "{text}");
    }
}
