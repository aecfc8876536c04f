// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records of `analyze` and `compare`: the contract with tools. The JSON schema and docs/json-analyze.md are generated from here.

use schemars::JsonSchema;
use serde::Serialize;

use super::compare::Row;
use super::conclude::{peak, Analysis, Conclusion, Decision, Peak};
use super::run::{Life, Run};
use super::trial::Trial;
use crate::event::{Comm, GpuId, Pid, QueueFormat, QueueId, QueueType};
use crate::kfd::snapshot::Slot;
use crate::sink::finding::Finding;
use crate::sink::record::{Gpu, Id64};
use crate::sink::schema::{page_of, schema_of};
use crate::stat::latency::Bucket;
use crate::stat::measure::Measure;

/// One line of `analyze --format json` or `compare --format json`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum AnalysisRecord {
    /// A run.
    Run(RunRecord),
    /// A queue of a run, from its creation to its end.
    Life(LifeRecord),
    /// How long something took in a run.
    Latency(LatencyRecord),
    /// An attempt to stop one of several models alone.
    Trial(Trial),
    /// An answer with its evidence.
    Conclusion(Conclusion),
    /// What follows.
    Decision(Decision),
    /// Something worth knowing of a run.
    Finding(FindingRecord),
    /// One recording of `compare`.
    Compared(Row),
}

/// A run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunRecord {
    /// Its name: `run 1`, or the file that it is from.
    pub run: String,
    /// The commands that ran together.
    pub commands: Vec<String>,
    /// When it began.
    pub ts_ns: u64,
    /// Its length.
    pub duration_ns: u64,
    /// What went wrong with a command.
    pub failed: Option<String>,
    /// The nodes.
    pub gpus: Vec<Gpu>,
    /// Processes with queues.
    pub processes: usize,
    /// Processes that opened /dev/kfd and made none.
    pub processes_without_queues: usize,
    /// Queues that were created or found.
    pub queues: u64,
    /// Queues at once, when they were most.
    pub peak: Peak,
    /// Runlists taken off on behalf of its processes.
    pub unmaps_own: u64,
    /// And on behalf of others.
    pub unmaps_others: u64,
    /// Pictures that were taken.
    pub pictures: u64,
    /// Records that were lost: if any were, queues may be missing.
    pub lost: u64,
}

/// A queue of a run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LifeRecord {
    /// Of which run.
    pub run: String,
    /// Of which of its commands; null where nothing was started, or that could not be told.
    pub command: Option<usize>,
    /// Owner.
    pub pid: Pid,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node.
    pub gpu_id: GpuId,
    /// Id in its process.
    pub queue_id: QueueId,
    /// Type.
    pub queue_type: QueueType,
    /// Packet format; null if it was there before.
    pub format: Option<QueueFormat>,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Dword index on the doorbell BAR; null if it was there before.
    pub doorbell: Option<u32>,
    /// When it was created; null if it was there before.
    pub created_ns: Option<u64>,
    /// When it went; null if it was there at the end.
    pub destroyed_ns: Option<u64>,
    /// Packets written, as the last picture showed.
    pub packets: Option<u64>,
    /// GPU addresses of its descriptor on XCC 0 that pictures showed.
    pub mqd_addresses: Vec<Id64>,
    /// Slots that it was on, in the last picture that showed them.
    pub slots: Vec<Slot>,
    /// Pictures with slots that showed it mapped.
    pub sightings: u64,
    /// Of these, on one slot of each XCC.
    pub on_one_each: u64,
    /// Of these, on none.
    pub on_none: u64,
    /// Times that it was on other slots than the time before.
    pub moves: u64,
}

/// How long something took.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LatencyRecord {
    /// In which run.
    pub run: String,
    /// Which duration.
    pub what: Measure,
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Greatest.
    pub max_ns: u64,
    /// Samples by powers of two.
    pub buckets: Vec<Bucket>,
}

/// Something worth knowing of a run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FindingRecord {
    /// Of which run.
    pub run: String,
    /// It.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Analysis {
    /// Everything, in the order in which it is written.
    #[must_use]
    pub fn records(&self) -> Vec<AnalysisRecord> {
        let mut records = Vec::new();
        for run in &self.runs {
            records.push(AnalysisRecord::Run(run_record(run)));
            let lives = run.lives.iter().map(|life| life_record(run, life));
            records.extend(lives.map(AnalysisRecord::Life));
            records.extend(latencies(run).map(AnalysisRecord::Latency));
            let findings = run.findings.iter().map(|finding| FindingRecord {
                run: run.name.clone(),
                finding: finding.clone(),
            });
            records.extend(findings.map(AnalysisRecord::Finding));
        }
        let trials = self.trials.iter().cloned();
        records.extend(trials.map(AnalysisRecord::Trial));
        let conclusions = self.conclusions.iter().cloned();
        records.extend(conclusions.map(AnalysisRecord::Conclusion));
        let decisions = self.decisions.iter().cloned();
        records.extend(decisions.map(AnalysisRecord::Decision));
        records
    }
}

fn run_record(run: &Run) -> RunRecord {
    let processes = run.users().len();
    RunRecord {
        run: run.name.clone(),
        commands: run.parties.clone(),
        ts_ns: run.from_ns,
        duration_ns: run.duration_ns(),
        failed: run.failed.clone(),
        gpus: run.gpus.clone(),
        processes,
        processes_without_queues: run.members.len() - processes,
        queues: run.lives.len() as u64 + run.lives_dropped,
        peak: peak(run, run.lives.iter()),
        unmaps_own: run.unmaps_own,
        unmaps_others: run.unmaps_others,
        pictures: run.pictures,
        lost: run.lost,
    }
}

fn life_record(run: &Run, life: &Life) -> LifeRecord {
    let member = &run.members[life.member];
    LifeRecord {
        run: run.name.clone(),
        command: member.party,
        pid: member.pid,
        comm: member.comm,
        gpu_id: life.key.gpu_id,
        queue_id: life.key.queue_id,
        queue_type: life.queue_type,
        format: life.format,
        ring_bytes: life.ring_bytes,
        doorbell: life.doorbell,
        created_ns: life.created_ns,
        destroyed_ns: life.destroyed_ns,
        packets: life.packets,
        mqd_addresses: life.mqds.iter().copied().map(Id64).collect(),
        slots: life.slots.last.clone(),
        sightings: life.slots.sightings,
        on_one_each: life.slots.one_each,
        on_none: life.slots.none,
        moves: life.slots.moves,
    }
}

fn latencies(run: &Run) -> impl Iterator<Item = LatencyRecord> + '_ {
    Measure::ALL.into_iter().filter_map(|what| {
        let latency = run.latencies.latency(what)?;
        let line = latency.line()?;
        Some(LatencyRecord {
            run: run.name.clone(),
            what,
            count: line.count,
            p50_ns: line.p50_ns,
            p90_ns: line.p90_ns,
            p99_ns: line.p99_ns,
            max_ns: line.max_ns,
            buckets: latency.buckets(),
        })
    })
}

/// JSON schema (draft 2020-12) of one line of `analyze` or `compare` with `--format json`.
#[must_use]
pub fn schema() -> String {
    schema_of::<AnalysisRecord>("one line of gpreempt analyze or compare --format json")
}

/// The page that describes them, in Markdown.
#[must_use]
pub fn page() -> String {
    page_of(
        "<!-- Generated by `gpreempt gen docs`; change gpreempt/src/analysis/record.rs instead. -->\n\
         # JSON records of `gpreempt analyze` and `gpreempt compare`\n\n\
         One object a line: `{\"type\": \"...\", \"data\": {...}}`; [schema/analyze.schema.json](schema/analyze.schema.json) describes them\n\
         to programs. `analyze` writes, for each run, its [`run`](#run), [`life`](#life), [`latency`](#latency) and\n\
         [`finding`](#finding) lines, then [`trial`](#trial), [`conclusion`](#conclusion) and [`decision`](#decision). `compare` writes one [`compared`](#compared) for each\n\
         recording. Times, durations and names are as in [json-records.md](json-records.md); [analyze.md](analyze.md) is the guide.\n\n",
        &schema(),
        "# Objects and words",
    )
}
