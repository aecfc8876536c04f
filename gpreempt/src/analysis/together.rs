// SPDX-License-Identifier: MIT OR Apache-2.0
//! Models that run together: what names a queue of one names none of another, they have as many queues as each alone, and each can
//! be stopped alone.

use std::collections::{BTreeMap, BTreeSet};

use super::conclude::{peak, ranges, Conclusion, Peak, Question};
use super::run::{Life, Run};
use super::trial::Trial;
use crate::sink::units::plural;

/// What counts as one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parties {
    /// The commands that were started; runs of each alone come before the one of all.
    Commands,
    /// Every process that has queues.
    Processes,
}

/// The queues of one model.
struct Party<'a> {
    name: String,
    lives: Vec<&'a Life>,
}

pub(super) fn conclude(runs: &[Run], trials: &[Trial], parties: Parties) -> Vec<Conclusion> {
    let Some((run, alone)) = runs.split_last() else {
        return Vec::new();
    };
    let each = split(run, parties);
    vec![
        disjoint(run, &each),
        total(run, &each, alone, parties),
        control(&each, trials, parties),
    ]
}

fn split(run: &Run, parties: Parties) -> Vec<Party<'_>> {
    match parties {
        Parties::Commands => run
            .parties
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let of = |life: &&Life| run.members[life.member].party == Some(at);
                Party {
                    name: name.clone(),
                    lives: run.lives.iter().filter(of).collect(),
                }
            })
            .collect(),
        Parties::Processes => run
            .users()
            .into_iter()
            .map(|(member, lives)| Party {
                name: match member.comm {
                    Some(comm) => format!("{comm}[{}]", member.pid),
                    None => format!("[{}]", member.pid),
                },
                lives,
            })
            .collect(),
    }
}

/// Something of which two queues that live at the same time may not have the same.
fn shared<T: Ord + Copy>(
    run: &Run,
    each: &[Party<'_>],
    of: impl Fn(&Life) -> Vec<T>,
) -> (usize, BTreeSet<T>) {
    let mut users: BTreeMap<T, Vec<(usize, u64, u64)>> = BTreeMap::new();
    for (at, party) in each.iter().enumerate() {
        for life in &party.lives {
            for what in of(life) {
                let span = (at, life.born_ns(run), life.gone_ns(run));
                users.entry(what).or_default().push(span);
            }
        }
    }
    let both = |spans: &Vec<(usize, u64, u64)>| {
        spans.iter().enumerate().any(|(n, a)| {
            spans[..n]
                .iter()
                .any(|b| a.0 != b.0 && a.1 < b.2 && b.1 < a.2)
        })
    };
    let shared = users
        .iter()
        .filter(|(_, spans)| both(spans))
        .map(|(what, _)| *what);
    (users.len(), shared.collect())
}

fn disjoint(run: &Run, each: &[Party<'_>]) -> Conclusion {
    let question = Question::Disjoint;
    let with_queues = each.iter().filter(|party| !party.lives.is_empty()).count();
    if with_queues < 2 {
        return Conclusion {
            question,
            holds: None,
            answer: format!(
                "{} had queues: nothing to compare",
                plural(with_queues as u64, "model")
            ),
            evidence: Vec::new(),
        };
    }
    let (keys, shared_keys) = shared(run, each, |life| vec![life.key]);
    let (doorbells, shared_doorbells) = shared(run, each, |life| {
        let doorbell = life.doorbell.map(|doorbell| (life.key.gpu_id, doorbell));
        doorbell.into_iter().collect()
    });
    let (mqds, shared_mqds) = shared(run, each, |life| {
        let mqd = |mqd: &u64| (life.key.gpu_id, *mqd);
        life.mqds.iter().map(mqd).collect()
    });
    let (_, shared_ids) = shared(run, each, |life| vec![life.key.queue_id.0]);
    let holds = shared_keys.is_empty() && shared_doorbells.is_empty() && shared_mqds.is_empty();
    let line = |what: &str, all: usize, shared: usize| format!("{all} {what}, {shared} shared");
    let mut evidence = vec![
        line("keys (process, GPU, id)", keys, shared_keys.len()),
        line("doorbells", doorbells, shared_doorbells.len()),
        line("MQD addresses", mqds, shared_mqds.len()),
    ];
    if !shared_ids.is_empty() {
        evidence.push(format!(
            "{} {} used by more than one at the same time: an id alone names no queue",
            if shared_ids.len() == 1 { "id" } else { "ids" },
            ranges(&shared_ids)
        ));
    }
    Conclusion {
        question,
        holds: match holds {
            true => run.is_whole().then_some(true),
            false => Some(false),
        },
        answer: match holds {
            true => "no two of them share a key, a doorbell or an MQD".to_owned(),
            false => "they share what should name one queue".to_owned(),
        },
        evidence,
    }
}

fn total(run: &Run, each: &[Party<'_>], alone: &[Run], parties: Parties) -> Conclusion {
    let together = peak(run, run.lives.iter());
    let apart: Vec<(String, Peak)> = match parties {
        Parties::Commands => alone
            .iter()
            .map(|run| (run.parties.join(", "), peak(run, run.lives.iter())))
            .collect(),
        Parties::Processes => each
            .iter()
            .map(|party| (party.name.clone(), peak(run, party.lives.iter().copied())))
            .collect(),
    };
    let sum = apart
        .iter()
        .fold(Peak::default(), |sum, (_, peak)| sum.plus(*peak));
    let whole = run.is_whole() && alone.iter().all(Run::is_whole);
    let how = match parties {
        Parties::Commands => "alone",
        Parties::Processes => "of one process",
    };
    let mut evidence: Vec<String> = apart
        .iter()
        .map(|(name, peak)| format!("{name}: {} {how} ({peak})", peak.all()))
        .collect();
    evidence.push(format!("together: {} ({together})", together.all()));
    Conclusion {
        question: Question::Total,
        holds: match together == sum {
            _ if apart.is_empty() => None,
            true => whole.then_some(true),
            false => Some(false),
        },
        answer: format!(
            "{} at once together, {} {how} added up",
            plural(together.all(), "queue"),
            sum.all()
        ),
        evidence,
    }
}

fn control(each: &[Party<'_>], trials: &[Trial], parties: Parties) -> Conclusion {
    let question = Question::Control;
    if trials.is_empty() {
        return Conclusion {
            question,
            holds: None,
            answer: "not tried".to_owned(),
            evidence: vec![match parties {
                Parties::Commands => "the models ended before it could be".to_owned(),
                Parties::Processes => {
                    "only models that were started here are stopped: -- COMMAND -- COMMAND"
                        .to_owned()
                }
            }],
        };
    }
    let name = |trial: &Trial| {
        let party = each.get(trial.party);
        party.map_or_else(String::new, |party| party.name.clone())
    };
    let evidence = trials.iter().map(|trial| match &trial.failed {
        Some(why) => format!("{}: {why}", name(trial)),
        None => format!(
            "{}: {} held by {}, seen by {}; {} with it off and all others mapped, {} with others off; {} released, {}",
            name(trial),
            plural(trial.held, "queue"),
            trial.backend.as_deref().unwrap_or("?"),
            trial.observed.as_deref().unwrap_or("?"),
            plural(trial.alone, "picture"),
            trial.others_off,
            trial.released,
            match trial.back {
                true => "seen mapped again",
                false => "not seen mapped again",
            }
        ),
    });
    let good = |trial: &&Trial| {
        trial.failed.is_none()
            && trial.held > 0
            && trial.released == trial.held
            && trial.alone > 0
            && trial.others_off == 0
            && trial.back
    };
    let done = trials.iter().filter(good).count();
    let seen_wrong = trials.iter().any(|trial| trial.others_off > 0);
    Conclusion {
        question,
        holds: match done == each.len() {
            true => Some(true),
            false if seen_wrong => Some(false),
            false => None,
        },
        answer: format!(
            "{done} of {} stopped and restarted alone, seen in pictures",
            plural(each.len() as u64, "model")
        ),
        evidence: evidence.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::{run_of, two_parties};
    use super::*;

    fn tried(party: usize) -> Trial {
        Trial {
            party,
            held: 1,
            released: 1,
            alone: 1,
            back: true,
            ..Trial::default()
        }
    }

    #[test]
    fn what_is_shared_is_found_while_both_live() {
        let mut run = two_parties();
        let each = split(&run, Parties::Commands);
        assert_eq!(disjoint(&run, &each).holds, Some(true));
        run.lives[1].doorbell = run.lives[0].doorbell;
        let each = split(&run, Parties::Commands);
        let told = disjoint(&run, &each);
        assert_eq!(told.holds, Some(false));
        assert_eq!(told.evidence[1], "1 doorbells, 1 shared");
        // One after the other may have the same.
        run.lives[0].destroyed_ns = Some(2);
        run.lives[0].created_ns = Some(1);
        let each = split(&run, Parties::Commands);
        assert_eq!(disjoint(&run, &each).holds, Some(true));
        // A gap may have hidden one.
        run.lost = 1;
        let each = split(&run, Parties::Commands);
        assert_eq!(disjoint(&run, &each).holds, None);
    }

    #[test]
    fn together_is_the_sum_of_each_alone_or_not() {
        let alone = || run_of(&[(5, 0, 1, Some(9))]);
        let runs = [alone(), alone(), two_parties()];
        let told = conclude(&runs, &[], Parties::Commands);
        assert_eq!(told[1].holds, Some(true));
        let more = run_of(&[(5, 0, 1, None), (5, 1, 1, None)]);
        let runs = [alone(), more, two_parties()];
        let told = conclude(&runs, &[], Parties::Commands);
        assert_eq!(told[1].holds, Some(false));
        assert_eq!(
            told[1].answer,
            "2 queues at once together, 3 alone added up"
        );
        let told = conclude(&runs[2..], &[], Parties::Processes);
        assert_eq!(told[1].holds, Some(true));
        assert_eq!(told[2].holds, None, "nothing was tried");
    }

    #[test]
    fn control_is_what_pictures_showed_and_no_less() {
        let run = two_parties();
        let each = split(&run, Parties::Commands);
        let judge = |second: Trial| control(&each, &[tried(0), second], Parties::Commands).holds;
        assert_eq!(judge(tried(1)), Some(true));
        let open = [
            Trial {
                alone: 0,
                ..tried(1)
            },
            Trial {
                held: 0,
                ..tried(1)
            },
            Trial {
                released: 0,
                ..tried(1)
            },
            Trial {
                back: false,
                ..tried(1)
            },
            Trial {
                failed: Some("no".to_owned()),
                ..tried(1)
            },
        ];
        for second in open {
            assert_eq!(judge(second.clone()), None, "{second:?}");
        }
        let other_off = Trial {
            others_off: 1,
            ..tried(1)
        };
        assert_eq!(judge(other_off), Some(false));
    }
}
