// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records of `stat`: the contract with tools. The JSON schema and docs/json-stat.md are generated from here.

use schemars::JsonSchema;
use serde::Serialize;

use super::collect::{By, Collect, Group};
use super::latency::{Bucket, Latency, Line};
use super::measure::Measure;
use crate::event::{Cause, Comm, GpuId, Kind, Pid};
use crate::findings::Finding;
use crate::model::ProcessUsage;
use crate::sink::record::{End, Summary};
use crate::sink::schema::{page_of, schema_of};

/// One line of `stat --format json`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum StatRecord {
    /// The distribution of one duration in one period, of all events or of one group.
    StatLatency(StatLatency),
    /// How many events of one type there were in one period.
    StatCount(StatCount),
    /// What became of the queues of one process on one node, of the whole time.
    StatProcess(StatProcess),
    /// Something worth knowing, of the whole time.
    Finding(Finding),
    /// The last line.
    StatSummary(StatSummary),
}

/// A period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Period {
    /// Its end.
    pub ts_ns: u64,
    /// Its length.
    pub duration_ns: u64,
    /// One of `--interval`; else the whole time.
    pub interval: bool,
}

/// The distribution of one duration in one period.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StatLatency {
    /// When.
    #[serde(flatten)]
    pub period: Period,
    /// Which duration.
    pub what: Measure,
    /// The group, with `--by`; left out for all events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<StatGroup>,
    /// Samples.
    pub count: u64,
    /// Samples per second of the period.
    pub rate_per_s: f64,
    /// Least.
    pub min_ns: u64,
    /// Mean.
    pub mean_ns: u64,
    /// Median, to three digits (two within a group), as are the other percentiles.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// Greatest.
    pub max_ns: u64,
    /// Samples by powers of two, from the first that has any to the last.
    pub buckets: Vec<Bucket>,
}

/// A group of events. One of the fields is there, or `others`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StatGroup {
    /// Why: name of a call, of the reason of an eviction, or of the cause of a hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// Process that the events are about, or on whose behalf a runlist changed; 0 = none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its name, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node; 0 = none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_id: Option<u32>,
    /// True for what came when there were too many groups.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub others: bool,
}

/// How many events of one type there were in one period.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StatCount {
    /// When.
    #[serde(flatten)]
    pub period: Period,
    /// Type of the events, as in `watch`.
    pub event: Kind,
    /// Events.
    pub count: u64,
    /// Events per second of the period.
    pub rate_per_s: f64,
}

/// What became of the queues of one process on one node.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StatProcess {
    /// Until then.
    pub ts_ns: u64,
    /// It.
    pub pid: Pid,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node.
    pub gpu_id: GpuId,
    /// It has ended.
    pub ended: bool,
    /// Queues that it has there.
    pub queues: u32,
    /// Queues that it has or had there.
    pub queues_seen: u64,
    /// Times that a queue of it was taken off while it was mapped, summed over its queues.
    pub preemptions: u64,
    /// Of these, on behalf of itself: by its calls, or because it was evicted.
    pub preemptions_own: u64,
    /// The same by cause.
    pub by_cause: Vec<CauseCount>,
    /// Time off the GPU, summed over its queues.
    pub off_ns: u64,
}

/// Preemptions of one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CauseCount {
    /// Why.
    pub cause: Cause,
    /// How often.
    pub count: u64,
}

/// The last line.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StatSummary {
    /// When.
    pub ts_ns: u64,
    /// Since the start.
    pub duration_ns: u64,
    /// Why it ended.
    pub end: End,
    /// Events that were counted.
    pub events: u64,
    /// Events that filters left out.
    pub filtered: u64,
    /// Records lost because the ring buffer was full: counts are too low then.
    pub lost: u64,
    /// Records that this version does not understand.
    pub undecoded: u64,
    /// Calls that returned without their entry having been seen; they have no record.
    pub unmatched: u64,
    /// Processes that ended and of which nothing is told, because they were too many.
    pub processes_forgotten: u64,
}

impl Period {
    pub(super) fn new(from_ns: u64, to_ns: u64, interval: bool) -> Self {
        Self {
            ts_ns: to_ns,
            duration_ns: to_ns.saturating_sub(from_ns),
            interval,
        }
    }

    /// Per second of it; 0 of a period without length.
    pub(super) fn rate(&self, count: u64) -> f64 {
        match self.duration_ns {
            0 => 0.0,
            ns => (count as f64 * 1e9 / ns as f64 * 1000.0).round() / 1000.0,
        }
    }
}

/// All records of a period.
pub(super) fn of_period(collect: &Collect, period: Period, by: Option<By>) -> Vec<StatRecord> {
    let mut records = Vec::new();
    let one = |what, latency: &Latency, group| {
        let line = latency.line()?;
        let latency = StatLatency::new(period, what, group, &line, latency.buckets());
        Some(StatRecord::StatLatency(latency))
    };
    for what in Measure::ALL {
        let all = collect.latency(what);
        records.extend(all.and_then(|latency| one(what, latency, None)));
        if by.is_some() {
            for (group, latency) in collect.groups(what) {
                records.extend(one(what, latency, Some(StatGroup::new(group, collect))));
            }
        }
    }
    records.extend(collect.counts().map(|(event, count)| {
        StatRecord::StatCount(StatCount {
            period,
            event,
            count,
            rate_per_s: period.rate(count),
        })
    }));
    records
}

impl StatLatency {
    fn new(
        period: Period,
        what: Measure,
        group: Option<StatGroup>,
        line: &Line,
        buckets: Vec<Bucket>,
    ) -> Self {
        Self {
            period,
            what,
            group,
            count: line.count,
            rate_per_s: period.rate(line.count),
            min_ns: line.min_ns,
            mean_ns: line.mean_ns,
            p50_ns: line.p50_ns,
            p90_ns: line.p90_ns,
            p99_ns: line.p99_ns,
            p999_ns: line.p999_ns,
            max_ns: line.max_ns,
            buckets,
        }
    }
}

impl StatGroup {
    fn new(group: Group, collect: &Collect) -> Self {
        match group {
            Group::Cause(cause) => Self {
                cause: Some(cause),
                ..Self::default()
            },
            Group::Process(pid) => Self {
                pid: Some(pid.map_or(0, |pid| pid.0)),
                comm: pid.and_then(|pid| collect.comm(pid)),
                ..Self::default()
            },
            Group::Gpu(gpu_id) => Self {
                gpu_id: Some(gpu_id.map_or(0, |gpu_id| gpu_id.0)),
                ..Self::default()
            },
            Group::Others => Self {
                others: true,
                ..Self::default()
            },
        }
    }
}

impl StatProcess {
    pub(super) fn new(usage: &ProcessUsage, ts_ns: u64) -> Self {
        let by_cause = Cause::ALL.iter().zip(usage.by_cause);
        Self {
            ts_ns,
            pid: usage.pid,
            comm: usage.comm,
            gpu_id: usage.gpu_id,
            ended: usage.ended,
            queues: usage.queues,
            queues_seen: usage.queues_seen,
            preemptions: usage.preemptions,
            preemptions_own: usage.by_own,
            by_cause: by_cause
                .filter(|(_, count)| *count > 0)
                .map(|(cause, count)| CauseCount {
                    cause: *cause,
                    count,
                })
                .collect(),
            off_ns: usage.off_ns,
        }
    }
}

impl StatSummary {
    pub(super) fn new(summary: &Summary, processes_forgotten: u64) -> Self {
        Self {
            ts_ns: summary.ts_ns,
            duration_ns: summary.duration_ns,
            end: summary.end,
            events: summary.shown,
            filtered: summary.filtered,
            lost: summary.lost,
            undecoded: summary.undecoded,
            unmatched: summary.unmatched,
            processes_forgotten,
        }
    }
}

/// JSON schema (draft 2020-12) of one line of `stat --format json`.
#[must_use]
pub fn schema() -> String {
    schema_of::<StatRecord>("one line of gpreempt stat --format json")
}

/// The page that describes them, in Markdown.
#[must_use]
pub fn page() -> String {
    page_of(
        "<!-- Generated by `gpreempt gen docs`; change gpreempt/src/stat/record.rs instead. -->\n\
         # JSON records of `gpreempt stat`\n\n\
         One object a line: `{\"type\": \"...\", \"data\": {...}}`; [schema/stat.schema.json](schema/stat.schema.json) describes them to\n\
         programs. With `--interval` each period writes its [`stat_latency`](#stat_latency) and [`stat_count`](#stat_count) lines when it is\n\
         over. At the end come those of the whole time, then [`stat_process`](#stat_process), [`finding`](#finding) and, last,\n\
         [`stat_summary`](#stat_summary). Times, durations and names are as in [json-records.md](json-records.md).\n\n",
        &schema(),
        "# Objects and words",
    )
}
