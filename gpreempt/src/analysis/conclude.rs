// SPDX-License-Identifier: MIT OR Apache-2.0
//! Judges runs. Every conclusion has its evidence in numbers; what was not seen is open, never taken for granted.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::run::{Life, Run};
use super::steady::{self, Steady};
use super::together::{self, Parties};
use super::trial::Trial;
use crate::event::{GpuId, QueueFormat, QueueId, QueueType};
use crate::sink::units::{plural, Nanos};
use crate::stat::measure::Measure;

/// Differences that are told one by one.
const MOST_TOLD: usize = 5;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// How many queues are used; is it the same in every run?
    Count,
    /// Which ids they have; are they the same in every run?
    Ids,
    /// Are the queues that were made at the beginning kept to the end?
    Steady,
    /// Is a queue on one hardware slot of each XCC?
    Slots,
    /// How often, and for how long, the model takes all queues of a GPU off by its own calls.
    Cost,
    /// Do the processes' queues account for everything that the driver has mapped?
    Sum,
    /// Do models that run together have nothing of each other's that names a queue?
    Disjoint,
    /// Do models that run together have as many queues as each alone?
    Total,
    /// Can each of them be stopped alone?
    Control,
}

impl Question {
    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "how many",
            Self::Ids => "ids",
            Self::Steady => "steady",
            Self::Slots => "slots",
            Self::Cost => "cost",
            Self::Sum => "sum",
            Self::Disjoint => "disjoint",
            Self::Total => "total",
            Self::Control => "control",
        }
    }
}

/// An answer and what it stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Conclusion {
    /// What was asked.
    pub question: Question,
    /// Yes or no; null where it is open, or no such question.
    pub holds: Option<bool>,
    /// In words.
    pub answer: String,
    /// What was seen.
    pub evidence: Vec<String>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Decision {
    /// About what.
    pub about: About,
    /// `fixed_ids` or `dynamic`; `A` (stock driver), `B` (patched driver), `C` (A now, B when it is there) or `none`.
    pub choice: &'static str,
    /// Why.
    pub because: Vec<String>,
}

/// What is to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// How a controller finds the queues that it stops.
    Identification,
    /// By which means it stops them.
    Scheme,
}

/// By which means queues could be stopped where this was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Means {
    /// The driver has the patches.
    pub patched: bool,
    /// A stock driver's means can be used; `None` if that is not known.
    pub stock: Option<bool>,
    /// How that is known.
    pub why: String,
}

/// Everything that was found out.
#[derive(Debug)]
pub struct Analysis {
    /// What was seen.
    pub runs: Vec<Run>,
    /// What was tried.
    pub trials: Vec<Trial>,
    /// What it means.
    pub conclusions: Vec<Conclusion>,
    /// And what to do.
    pub decisions: Vec<Decision>,
}

/// Judges runs of the same model, or of models alone and then together.
#[must_use]
pub fn conclude(
    runs: Vec<Run>,
    trials: Vec<Trial>,
    parties: Option<Parties>,
    means: &Means,
) -> Analysis {
    let mut conclusions = Vec::new();
    if parties.is_none() {
        conclusions.extend([count(&runs), ids(&runs), steady(&runs)]);
    }
    if let Some(parties) = parties {
        conclusions.extend(together::conclude(&runs, &trials, parties));
    }
    conclusions.extend([slots(&runs), cost(&runs)]);
    conclusions.extend(sum(&runs));
    let mut decisions = Vec::new();
    if parties.is_none() {
        decisions.push(identification(&runs, &conclusions));
    }
    decisions.push(scheme(&runs, means));
    Analysis {
        runs,
        trials,
        conclusions,
        decisions,
    }
}

/// Queues at once, when they were most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Peak {
    /// Compute queues.
    pub compute: u64,
    /// Copy queues.
    pub sdma: u64,
}

impl Peak {
    /// Of all types.
    #[must_use]
    pub fn all(self) -> u64 {
        self.compute + self.sdma
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            compute: self.compute + other.compute,
            sdma: self.sdma + other.sdma,
        }
    }
}

impl std::fmt::Display for Peak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} compute, {} copy", self.compute, self.sdma)
    }
}

/// When most queues of some lives were there at once.
pub(super) fn peak<'a>(run: &Run, lives: impl Iterator<Item = &'a Life>) -> Peak {
    let mut changes: Vec<(u64, bool, bool)> = Vec::new();
    for life in lives {
        let sdma = life.queue_type.is_sdma();
        changes.push((life.born_ns(run), true, sdma));
        changes.extend(life.destroyed_ns.map(|gone| (gone, false, sdma)));
    }
    // At the same moment, those that go go first.
    changes.sort_unstable();
    let (mut now, mut most) = (Peak::default(), Peak::default());
    for (_, comes, sdma) in changes {
        let of = if sdma {
            &mut now.sdma
        } else {
            &mut now.compute
        };
        *of = if comes { *of + 1 } else { of.saturating_sub(1) };
        if now.all() > most.all() {
            most = now;
        }
    }
    most
}

/// Whether something is the same in all runs. One run alone cannot show that, nor can runs with gaps.
fn repeated<T: PartialEq>(runs: &[Run], values: &[T]) -> Option<bool> {
    let same = values.windows(2).all(|pair| pair[0] == pair[1]);
    match (same, values.len() > 1 && runs.iter().all(Run::is_whole)) {
        (false, _) => Some(false),
        (true, true) => Some(true),
        (true, false) => None,
    }
}

fn in_runs(runs: &[Run], holds: Option<bool>) -> String {
    match (holds, runs.len()) {
        (Some(true), n) => format!("the same in {n} of {n} runs"),
        (Some(false), _) => "not the same in every run".to_owned(),
        (None, 1) => "one run, which cannot tell whether it is so again".to_owned(),
        (None, _) => "records were lost: open whether it is always so".to_owned(),
    }
}

fn count(runs: &[Run]) -> Conclusion {
    let peaks: Vec<Peak> = runs.iter().map(|run| peak(run, run.lives.iter())).collect();
    let holds = repeated(runs, &peaks);
    let range = |of: fn(Peak) -> u64| {
        let (least, most) = peaks
            .iter()
            .map(|peak| of(*peak))
            .fold((u64::MAX, 0), |(a, b), n| (a.min(n), b.max(n)));
        match least == most || peaks.is_empty() {
            true => format!("{most}"),
            false => format!("{least} to {most}"),
        }
    };
    let answer = format!(
        "{} queues at once at most, {} compute and {} copy; {}",
        range(Peak::all),
        range(|peak| peak.compute),
        range(|peak| peak.sdma),
        in_runs(runs, holds)
    );
    let evidence = runs.iter().zip(&peaks).map(|(run, peak)| {
        let users = run.users().len() as u64;
        format!(
            "{}: {} created or found in {} of {}, {} at once ({peak}){}",
            run.name,
            plural(run.lives.len() as u64 + run.lives_dropped, "queue"),
            Nanos(run.duration_ns()),
            plural(users, "process"),
            peak.all(),
            match run.lost {
                0 => String::new(),
                lost => format!("; {lost} records lost, there may be more"),
            }
        )
    });
    Conclusion {
        question: Question::Count,
        holds,
        answer,
        evidence: evidence.collect(),
    }
}

/// What a process is for in its run: its name, and its number among those of that name.
pub(super) type Role = (Option<usize>, String, usize);

/// One queue as it can be compared between runs.
type Sign = (GpuId, QueueId, QueueType, Option<QueueFormat>);

fn roles(run: &Run) -> BTreeMap<Role, Vec<&Life>> {
    let mut numbers: BTreeMap<(Option<usize>, String), usize> = BTreeMap::new();
    let mut roles = BTreeMap::new();
    for (member, lives) in run.users() {
        let comm = member
            .comm
            .map_or_else(|| "?".to_owned(), |c| c.to_string());
        let number = numbers.entry((member.party, comm.clone())).or_default();
        let role = (member.party, comm, *number);
        *number += 1;
        roles.insert(role, lives);
    }
    roles
}

fn signs(lives: &[&Life]) -> Vec<Sign> {
    let sign = |life: &&Life| {
        let key = life.key;
        (key.gpu_id, key.queue_id, life.queue_type, life.format)
    };
    lives.iter().map(sign).collect()
}

/// The first use of each id, in order of the ids.
fn first_uses(signs: &[Sign]) -> BTreeMap<(GpuId, QueueId), (QueueType, Option<QueueFormat>)> {
    let mut uses = BTreeMap::new();
    for (gpu_id, queue_id, queue_type, format) in signs {
        uses.entry((*gpu_id, *queue_id))
            .or_insert((*queue_type, *format));
    }
    uses
}

/// Ids of one process: `0 to 4 compute; 5, 6 sdma`.
fn listed(signs: &[Sign]) -> String {
    let mut by_type: BTreeMap<QueueType, BTreeSet<u32>> = BTreeMap::new();
    for (_, queue_id, queue_type, _) in signs {
        by_type.entry(*queue_type).or_default().insert(queue_id.0);
    }
    let part = |(queue_type, ids): (&QueueType, &BTreeSet<u32>)| {
        format!("{} {}", ranges(ids), queue_type.name())
    };
    by_type.iter().map(part).collect::<Vec<_>>().join("; ")
}

/// `0`, `0 to 4`, `0 to 2, 7`.
pub(super) fn ranges(ids: &BTreeSet<u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for id in ids {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*id) => *last = *id,
            _ => parts.push((*id, *id)),
        }
    }
    let text = |(first, last): &(u32, u32)| match last - first {
        0 => format!("{first}"),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn named(role: &Role) -> String {
    match role.2 {
        0 => role.1.clone(),
        number => format!("{} ({})", role.1, number + 1),
    }
}

fn ids(runs: &[Run]) -> Conclusion {
    let of: Vec<BTreeMap<Role, Vec<Sign>>> = runs
        .iter()
        .map(|run| {
            let signed = |(role, lives): (Role, Vec<&Life>)| (role, signs(&lives));
            roles(run).into_iter().map(signed).collect()
        })
        .collect();
    let firsts: Vec<BTreeMap<&Role, _>> = of
        .iter()
        .map(|roles| roles.iter().map(|(r, s)| (r, first_uses(s))).collect())
        .collect();
    let holds = repeated(runs, &firsts);
    let in_order = of.windows(2).all(|pair| pair[0] == pair[1]);
    let first = of.first();
    let mut lists: Vec<String> = first
        .into_iter()
        .flat_map(|roles| roles.values().map(|signs| listed(signs)))
        .collect();
    let processes = lists.len() as u64;
    lists.dedup();
    let which = match (lists.as_slice(), processes) {
        ([], _) => "none".to_owned(),
        ([one], 1) => one.clone(),
        ([one], n) => format!("{one} in each of {n} processes"),
        (several, n) => format!("{} in {n} processes", several.join(" | ")),
    };
    let order = match (holds, in_order) {
        (Some(true), true) => ", in the same order",
        (Some(true), false) => ", not always in the same order",
        _ => "",
    };
    let mut evidence = Vec::new();
    match first {
        Some(roles) if holds != Some(false) => {
            evidence.extend(roles.iter().map(|(role, signs)| {
                let order: Vec<String> =
                    signs.iter().take(16).map(|s| s.1 .0.to_string()).collect();
                let more = if signs.len() > 16 { " ..." } else { "" };
                format!(
                    "{}: created in the order {}{more}",
                    named(role),
                    order.join(" ")
                )
            }));
        }
        _ => evidence.extend(runs.iter().zip(&of).flat_map(|(run, roles)| {
            roles
                .iter()
                .map(|(role, signs)| format!("{}: {}: {}", run.name, named(role), listed(signs)))
                .collect::<Vec<_>>()
        })),
    }
    let shared = runs.first().map(shared_ids).unwrap_or_default();
    if !shared.is_empty() {
        evidence.push(format!(
            "{} {} used by more than one process: only a process and an id together name a queue",
            if shared.len() == 1 { "id" } else { "ids" },
            ranges(&shared)
        ));
    }
    Conclusion {
        question: Question::Ids,
        holds,
        answer: format!("{which}; {}{order}", in_runs(runs, holds)),
        evidence,
    }
}

/// Ids that more than one process of a run had.
fn shared_ids(run: &Run) -> BTreeSet<u32> {
    let mut users: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
    for life in &run.lives {
        let of_id = users.entry(life.key.queue_id.0).or_default();
        of_id.insert(life.member);
    }
    users
        .into_iter()
        .filter(|(_, users)| users.len() > 1)
        .map(|(id, _)| id)
        .collect()
}

fn steady(runs: &[Run]) -> Conclusion {
    let each: Vec<(&Run, Steady)> = runs
        .iter()
        .filter_map(|run| Some((run, steady::of(run)?)))
        .collect();
    let whole = runs.iter().all(Run::is_whole);
    let holds = match each.iter().all(|(_, steady)| steady.holds()) {
        _ if each.is_empty() => None,
        false => Some(false),
        true => whole.then_some(true),
    };
    let (gone, reused) = each.iter().fold((0, 0), |(gone, reused), (_, s)| {
        (gone + s.gone_early, reused + s.reused)
    });
    let answer = match (holds, each.as_slice()) {
        (_, []) => "no queue was seen".to_owned(),
        (Some(true), _) => {
            let least = each.iter().map(|(_, s)| s.to_ns - s.from_ns).min();
            format!(
                "queues are made at the beginning and kept to the end: nothing changed for {} at least",
                Nanos(least.unwrap_or(0))
            )
        }
        (None, _) => "records were lost: open".to_owned(),
        (Some(false), _) if gone + reused > 0 => format!(
            "queues come and go: {} went before the end, ids were used again {}",
            plural(gone, "queue"),
            plural(reused, "time")
        ),
        (Some(false), _) => "its processes do not have their queues at the same time".to_owned(),
    };
    let evidence = each.iter().map(|(run, steady)| {
        if steady.holds() {
            format!(
                "{}: unchanged from {} to {} after the start",
                run.name,
                Nanos(steady.from_ns),
                Nanos(steady.to_ns)
            )
        } else {
            format!(
                "{}: last creation {} after the start, {} gone before, ids used again {}",
                run.name,
                Nanos(steady.from_ns),
                plural(steady.gone_early, "queue"),
                plural(steady.reused, "time")
            )
        }
    });
    Conclusion {
        question: Question::Steady,
        holds,
        answer,
        evidence: evidence.collect(),
    }
}

fn slots(runs: &[Run]) -> Conclusion {
    let question = Question::Slots;
    let lives = || runs.iter().flat_map(|run| &run.lives);
    let total = |of: fn(&Life) -> u64| lives().map(of).sum::<u64>();
    let seen = total(|life| life.slots.sightings);
    if seen == 0 {
        let pictures: u64 = runs.iter().map(|run| run.pictures).sum();
        let why = runs.iter().find_map(|run| run.blind.clone());
        return Conclusion {
            question,
            holds: None,
            answer: "not seen".to_owned(),
            evidence: vec![match (pictures, why) {
                (0, _) => "no picture was taken while there were queues".to_owned(),
                (n, Some(why)) => format!("{}: {why}", plural(n, "picture")),
                (n, None) => format!(
                    "{} without the hardware slots (--hqds)",
                    plural(n, "picture")
                ),
            }],
        };
    }
    let (one_each, none) = (
        total(|life| life.slots.one_each),
        total(|life| life.slots.none),
    );
    let moves = total(|life| life.slots.moves);
    let xccs: BTreeSet<u64> = runs
        .iter()
        .flat_map(|run| run.lives.iter().map(|life| run.xccs(life.key.gpu_id)))
        .collect();
    let on = match xccs.iter().copied().collect::<Vec<_>>().as_slice() {
        [1] => "the one XCC".to_owned(),
        [n] => format!("each of {n} XCCs"),
        _ => "each XCC".to_owned(),
    };
    let moved = match moves {
        0 => "always the same one".to_owned(),
        n => format!("on another one than before {}", plural(n, "time")),
    };
    let mut evidence = Vec::new();
    if none > 0 {
        evidence.push(format!(
            "{} waited for their turn: mapped, and on no slot",
            plural(none, "sighting")
        ));
    }
    if one_each + none < seen {
        evidence.push(format!(
            "{} with another number of slots",
            plural(seen - one_each - none, "sighting")
        ));
    }
    let with_mqd = lives().filter(|life| !life.mqds.is_empty());
    let kept = with_mqd.clone().filter(|life| life.mqds.len() == 1).count();
    evidence.push(format!(
        "{kept} of {} kept the address of their MQD for life",
        plural(with_mqd.count() as u64, "queue")
    ));
    for (name, life) in runs
        .first()
        .into_iter()
        .flat_map(|run| run.lives.iter().take(8).map(move |life| (&run.name, life)))
    {
        if life.slots.last.is_empty() {
            continue;
        }
        let slots: Vec<String> = life
            .slots
            .last
            .iter()
            .map(|slot| format!("{}.{}.{}", slot.xcc, slot.pipe, slot.queue))
            .collect();
        let mqd = life.mqds.iter().next_back();
        evidence.push(format!(
            "{name}: queue {} {}: MQD {} on {} (XCC.pipe.queue)",
            life.key.queue_id,
            life.queue_type.name(),
            mqd.map_or_else(|| "-".to_owned(), |mqd| format!("{mqd:#x}")),
            slots.join(" ")
        ));
    }
    Conclusion {
        question,
        holds: Some(one_each == seen),
        answer: format!(
            "a mapped queue was on one slot of {on} (copy queues: on one) in {one_each} of {}, {moved}",
            plural(seen, "sighting")
        ),
        evidence,
    }
}

fn cost(runs: &[Run]) -> Conclusion {
    let own: u64 = runs.iter().map(|run| run.unmaps_own).sum();
    let others: u64 = runs.iter().map(|run| run.unmaps_others).sum();
    let length: u64 = runs.iter().map(Run::duration_ns).sum();
    let mut evidence = Vec::new();
    for run in runs {
        let part = |measure: Measure| {
            let line = run.latencies.latency(measure)?.line()?;
            Some(format!(
                "{} P50 {} P90 {} max {}",
                measure.name(),
                Nanos(line.p50_ns),
                Nanos(line.p90_ns),
                Nanos(line.max_ns)
            ))
        };
        let parts: Vec<String> = [Measure::Unmap, Measure::Map, Measure::OffHardware]
            .into_iter()
            .filter_map(part)
            .collect();
        evidence.push(format!(
            "{}: {} of its own, {} of others{}",
            run.name,
            plural(run.unmaps_own, "time"),
            run.unmaps_others,
            match parts.is_empty() {
                true => String::new(),
                false => format!("; {}", parts.join(", ")),
            }
        ));
    }
    let rate = own as f64 * 1e9 / length.max(1) as f64;
    Conclusion {
        question: Question::Cost,
        holds: None,
        answer: format!(
            "its own calls took all queues of a GPU off {} in {} ({rate:.1}/s), those of others {}",
            plural(own, "time"),
            Nanos(length),
            plural(others, "time")
        ),
        evidence,
    }
}

/// `None` if nothing could be compared.
fn sum(runs: &[Run]) -> Option<Conclusion> {
    let compared: u64 = runs.iter().map(|run| run.sums.compared).sum();
    if compared == 0 {
        return None;
    }
    let equal: u64 = runs.iter().map(|run| run.sums.equal).sum();
    let mut evidence = Vec::new();
    for run in runs {
        let differ = run.sums.differ.iter().take(MOST_TOLD);
        evidence.extend(differ.map(|(ts_ns, gpu_id, told, ours)| {
            format!(
                "{}: at {} the driver had {told} queues of {gpu_id} mapped, the processes {ours}",
                run.name,
                Nanos(ts_ns.saturating_sub(run.from_ns))
            )
        }));
    }
    let unsettled: u64 = runs.iter().map(|run| run.unsettled).sum();
    if unsettled > 0 {
        evidence.push(format!(
            "{} left out: a runlist changed meanwhile",
            plural(unsettled, "picture")
        ));
    }
    Some(Conclusion {
        question: Question::Sum,
        holds: Some(equal == compared),
        answer: format!(
            "the driver's own count of mapped queues is the sum over all processes in {equal} of {}",
            plural(compared, "picture")
        ),
        evidence,
    })
}

fn identification(runs: &[Run], conclusions: &[Conclusion]) -> Decision {
    let of = |question| conclusions.iter().find(|c| c.question == question);
    let holds = |question| of(question).and_then(|c| c.holds);
    let mut because = Vec::new();
    match holds(Question::Ids) {
        Some(true) => because.push(format!("ids are the same in {} runs", runs.len())),
        Some(false) => because.push("ids differ from run to run".to_owned()),
        None => because.push("that ids repeat was not shown".to_owned()),
    }
    let reused: u64 = runs.iter().filter_map(steady::of).map(|s| s.reused).sum();
    match holds(Question::Steady) {
        _ if reused > 0 => because.push(format!(
            "an id names another queue later: ids were used again {}",
            plural(reused, "time")
        )),
        Some(true) => because.push("no id was used again within a run".to_owned()),
        Some(false) => because.push("queues come and go within a run".to_owned()),
        None => because.push("that queues stay was not shown".to_owned()),
    }
    let fixed = holds(Question::Ids) == Some(true) && holds(Question::Steady) == Some(true);
    if fixed {
        because.push(
            "an id counts within its process only: which process it is must be found at run time all the same".to_owned(),
        );
    }
    Decision {
        about: About::Identification,
        choice: if fixed { "fixed_ids" } else { "dynamic" },
        because,
    }
}

fn scheme(runs: &[Run], means: &Means) -> Decision {
    let mut because = vec![means.why.clone()];
    let processes = runs.iter().map(|run| run.users().len()).max();
    let processes = processes.unwrap_or(0) as u64;
    let median = runs.iter().rev().find_map(|run| {
        let line = run.latencies.latency(Measure::OffHardware)?.line()?;
        Some((line.p50_ns, line.p90_ns, line.count))
    });
    let choice = match (means.patched, means.stock) {
        (true, _) => {
            because.push("one call stops any number of processes and queues".to_owned());
            "B"
        }
        (false, Some(false)) => {
            because.push("it takes the patches of kernel-patch/".to_owned());
            "none"
        }
        (false, stock) => {
            because.push(format!(
                "a stock driver stops one process after the other: {} here, each a round trip that takes every queue of the GPU off",
                plural(processes, "process")
            ));
            match stock {
                Some(true) => "C",
                _ => "A",
            }
        }
    };
    if let Some((p50, p90, count)) = median {
        because.push(format!(
            "a round trip kept queues off the hardware for {} (P90 {}, {} of them, here)",
            Nanos(p50),
            Nanos(p90),
            count
        ));
    }
    Decision {
        about: About::Scheme,
        choice,
        because,
    }
}

#[cfg(test)]
#[path = "conclude_tests.rs"]
mod tests;
