// SPDX-License-Identifier: MIT OR Apache-2.0
//! Findings of a run as the records that every output shows.

use super::plan::{Calls, Case, Plan};
use super::record::{
    BenchEnd, Compares, EndKind, Environment, Measured, Operation, Ratio, Record, Skipped,
};
use super::run::{End, Findings, Row, Sample};
use super::stats::{percentile, RatioSummary, Split, Summary};

/// Everything that a run has to say.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was measured on.
    pub environment: Environment,
    /// What is not measured, and why.
    pub skipped: Vec<Skipped>,
    /// Latencies: by operation, then case, then backend.
    pub measured: Vec<Measured>,
    /// Relations.
    pub ratios: Vec<Ratio>,
    /// How it ended.
    pub end: BenchEnd,
}

impl Report {
    /// Of a run.
    #[must_use]
    pub fn new(environment: Environment, plan: &Plan, findings: &Findings) -> Self {
        let skipped = plan
            .left_out
            .iter()
            .map(|(case, why)| Skipped {
                backend: None,
                case: case.clone(),
                why: why.clone(),
            })
            .chain(findings.rows.iter().filter(|row| !row.tried()).map(|row| {
                Skipped {
                    backend: Some(row.backend),
                    case: plan.cases[row.case].to_string(),
                    why: row
                        .given_up
                        .clone()
                        .unwrap_or_else(|| "the run ended before".to_owned()),
                }
            }))
            .collect();
        let mut measured = Vec::new();
        for operation in Operation::ALL {
            for (at, case) in plan.cases.iter().enumerate() {
                let rows = findings
                    .rows
                    .iter()
                    .filter(|row| row.case == at && row.tried());
                measured.extend(rows.map(|row| of_row(row, case, operation)));
            }
        }
        Self {
            environment,
            skipped,
            measured,
            ratios: ratios(plan, findings),
            end: end(findings),
        }
    }

    /// In the order of the JSON lines.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        [Record::BenchEnvironment(&self.environment)]
            .into_iter()
            .chain(self.skipped.iter().map(Record::BenchSkipped))
            .chain(self.measured.iter().map(Record::BenchResult))
            .chain(self.ratios.iter().map(Record::BenchRatio))
            .chain([Record::BenchEnd(&self.end)])
    }
}

fn of_row(row: &Row, case: &Case, operation: Operation) -> Measured {
    let samples = row.samples(operation);
    let splits: Vec<Split> = samples.iter().filter_map(Sample::split).collect();
    let of = |part: fn(&Split) -> u64| Summary::of(splits.iter().map(part));
    let mut cycles: Vec<usize> = samples.iter().filter_map(|sample| sample.cycles).collect();
    cycles.sort_unstable();
    Measured {
        backend: row.backend,
        case: case.to_string(),
        processes: case.processes,
        queues: case.queues,
        whole: case.whole,
        calls: case.calls,
        operation,
        n: samples.len(),
        failed: row.failed(),
        unseen: row.unseen[operation as usize],
        total: Summary::of(samples.iter().map(|sample| sample.total_ns)),
        lock_wait: Summary::of(samples.iter().filter_map(|sample| {
            sample.lock_wait_ns?;
            Some(sample.split()?.lock_wait_ns)
        })),
        hw: of(|split| split.hw_ns),
        software: of(|split| split.software_ns),
        middle_half: Split::of_middle_half(&splits),
        off_hardware: Summary::of(samples.iter().filter_map(|sample| sample.off_ns)),
        cycles_p50: percentile(&cycles, 50.0),
        failures: row.failures.clone(),
        given_up: row.given_up.clone(),
    }
}

fn end(findings: &Findings) -> BenchEnd {
    let (end, message) = match &findings.end {
        End::Complete => (EndKind::Complete, None),
        End::Signal(signal) => (EndKind::Signal, Some(format!("ended by signal {signal}"))),
        End::JobGone(pid) => (
            EndKind::JobGone,
            Some(format!(
                "process {pid} of the job is gone; measure on a job that lasts longer"
            )),
        ),
        End::TimedOut(what) => (EndKind::GpuTimedOut, Some(what.clone())),
        End::Stuck(what) => (EndKind::Stuck, Some(what.clone())),
        End::Nothing => (
            EndKind::Nothing,
            Some("no backend could stop and restart this job".to_owned()),
        ),
    };
    BenchEnd {
        end,
        message,
        signal: match findings.end {
            End::Signal(signal) => u8::try_from(signal).ok(),
            _ => None,
        },
        rounds: findings.rounds,
    }
}

/// Backends are compared in their order of preference: the preferred one is below the line.
fn ratios(plan: &Plan, findings: &Findings) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for below in &findings.rows {
        let case = &plan.cases[below.case];
        for above in &findings.rows {
            let other = &plan.cases[above.case];
            let same_backend = above.backend == below.backend;
            let (compares, numerator, denominator) =
                if above.case == below.case && above.backend > below.backend {
                    let names = (above.backend.to_string(), below.backend.to_string());
                    (Compares::Backends, names.0, names.1)
                } else if same_backend
                    && above.case != below.case
                    && other.set == case.set
                    && case.calls == Calls::Batch
                {
                    let numerator = match other.calls {
                        Calls::PerProcess => "a call per process",
                        Calls::PerQueue => "a call per queue",
                        Calls::Batch => continue,
                    };
                    (Compares::Calls, numerator.to_owned(), "one call".to_owned())
                } else if same_backend
                    && case.queues == 1
                    && other.queues > 1
                    && other.calls == Calls::Batch
                {
                    (Compares::Sizes, other.to_string(), case.to_string())
                } else {
                    continue;
                };
            for operation in Operation::ALL {
                let pairs = pairs(above.samples(operation), below.samples(operation));
                if let Some(ratio) = RatioSummary::of(pairs) {
                    let of_case = match compares {
                        Compares::Backends => below.case,
                        Compares::Calls | Compares::Sizes => 0,
                    };
                    let ratio = Ratio {
                        compares,
                        numerator: numerator.clone(),
                        denominator: denominator.clone(),
                        backend: same_backend.then_some(below.backend),
                        case: (compares != Compares::Sizes).then(|| case.to_string()),
                        operation,
                        ratio,
                    };
                    ratios.push((of_case, ratio));
                }
            }
        }
    }
    // Backends side by side for each case; the rest as it is, by backend.
    ratios.sort_by_key(|(of_case, ratio)| (ratio.compares, *of_case));
    ratios.into_iter().map(|(_, ratio)| ratio).collect()
}

/// Totals of the same rounds. Both are in order of rounds.
fn pairs(above: &[Sample], below: &[Sample]) -> Vec<(u64, u64)> {
    let mut below = below.iter().peekable();
    let mut pairs = Vec::new();
    for sample in above {
        while below.next_if(|other| other.round < sample.round).is_some() {}
        if let Some(other) = below.next_if(|other| other.round == sample.round) {
            pairs.push((sample.total_ns, other.total_ns));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, total_ns: u64) -> Sample {
        Sample {
            round,
            total_ns,
            lock_wait_ns: None,
            hw_ns: None,
            off_ns: None,
            cycles: None,
        }
    }

    #[test]
    fn pairs_are_of_one_round() {
        let above = [sample(0, 10), sample(2, 30), sample(3, 40)];
        let below = [sample(1, 1), sample(2, 2), sample(3, 4), sample(9, 9)];
        assert_eq!(pairs(&above, &below), [(30, 2), (40, 4)]);
        assert!(pairs(&above, &[]).is_empty());
    }
}
