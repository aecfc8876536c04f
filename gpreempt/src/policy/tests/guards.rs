// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever happens, and whatever a policy wants, no guard is passed.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;

use super::{member, Sim, MS, S};

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// The caller comes back after so many thousandths of the time that it was given.
    Wait(u64),
    Hints(u32),
    Pending(u64),
    Slow(u64),
    Policy(usize),
    Wish(usize, bool),
    Unwish(usize),
    /// The next hold is refused after so many processes.
    Refuse(usize),
    Join(usize, u32),
    Class(usize, Class),
    Hang,
    GoOn,
}

#[derive(Clone, Debug)]
struct Guards {
    max_pause_ms: u64,
    min_run_ms: u64,
    pause_share: f64,
    window_ms: u64,
    preemptions: u32,
    rate_window_ms: u64,
    collective_ms: u64,
    margin_ms: u64,
    rounds: Rounds,
}

const OFFLINE: [(&str, &[u32]); 3] = [("a", &[1, 2, 2]), ("b", &[2]), ("c", &[3, 3])];
const POLICIES: [&str; 5] = ["manual", "priority", "timeslice", "share", "slo"];

impl Guards {
    fn config(&self, policy: usize) -> Config {
        let Self {
            max_pause_ms,
            min_run_ms,
            pause_share,
            window_ms,
            preemptions,
            rate_window_ms,
            collective_ms,
            margin_ms,
            ..
        } = self;
        let text = format!(
            "[policy]
name = \"{}\"
[policy.timeslice]
period = \"200ms\"
[policy.share]
turn = \"60ms\"
[policy.slo]
target = \"10ms\"
period = \"70ms\"
min_requests = 1
[guards]
max_pause = \"{max_pause_ms}ms\"
min_run = \"{min_run_ms}ms\"
pause_share = {pause_share}
window = \"{window_ms}ms\"
preemptions = {preemptions}
rate_window = \"{rate_window_ms}ms\"
collective_timeout = \"{collective_ms}ms\"
margin = \"{margin_ms}ms\"
",
            POLICIES[policy]
        );
        Config::parse(&text).unwrap()
    }

    fn longest_pause_ns(&self) -> u64 {
        (self.max_pause_ms * MS).min(self.collective_ms * MS / 2)
    }
}

fn any_guards() -> impl Strategy<Value = Guards> {
    (
        (60u64..2000, 0u64..400, 0.0f64..=1.0, 300u64..5000),
        (0u32..6, 1u64..2000, 120u64..4000, 0u64..25),
        prop_oneof![Just(Rounds::Call), Just(Rounds::Process)],
    )
        .prop_map(|(pause, rate, rounds)| Guards {
            max_pause_ms: pause.0,
            min_run_ms: pause.1,
            pause_share: pause.2,
            window_ms: pause.3,
            preemptions: rate.0,
            rate_window_ms: rate.1,
            collective_ms: rate.2,
            margin_ms: rate.3,
            rounds,
        })
}

fn any_step() -> impl Strategy<Value = Step> {
    let job = 0..OFFLINE.len();
    let class = prop_oneof![
        Just(Class::Offline),
        Just(Class::Online),
        Just(Class::Ignore)
    ];
    prop_oneof![
        12 => (1u64..=1000).prop_map(Step::Wait),
        12 => Just(Step::Wait(1000)),
        2 => (0u32..2).prop_map(Step::Hints),
        2 => (0u64..2).prop_map(Step::Pending),
        2 => (1u64..50).prop_map(Step::Slow),
        3 => (0..POLICIES.len()).prop_map(Step::Policy),
        3 => (job.clone(), any::<bool>()).prop_map(|(job, hold)| Step::Wish(job, hold)),
        1 => job.clone().prop_map(Step::Unwish),
        1 => (0usize..3).prop_map(Step::Refuse),
        1 => (job.clone(), 1u32..4).prop_map(|(job, gpu)| Step::Join(job, gpu)),
        1 => (job, class).prop_map(|(job, class)| Step::Class(job, class)),
        1 => Just(Step::Hang),
        2 => Just(Step::GoOn),
    ]
}

/// Plays it, and checks each decision by itself.
fn play(guards: &Guards, steps: &[Step]) -> Result<Sim, TestCaseError> {
    let mut sim = Sim::new("");
    sim.decider = Decider::new(&guards.config(1));
    sim.view.cost.rounds = guards.rounds;
    sim.release_ns = guards.margin_ms * MS;
    sim.add("serve", Class::Online, &[1, 2]);
    for (id, gpus) in OFFLINE {
        sim.add(id, Class::Offline, gpus);
    }
    let mut hung = false;
    for step in steps {
        match *step {
            Step::Wait(_) => {}
            Step::Hints(hints) => sim.view.hints = hints,
            Step::Pending(pending) => {
                let last_ns = Some(sim.now_ns);
                sim.job("serve").activity = Activity {
                    pending,
                    last_ns,
                    counted_ns: None,
                };
            }
            Step::Slow(ms) => sim.view.latencies.push(Latency {
                ts_ns: sim.now_ns,
                latency_ns: ms * MS,
            }),
            Step::Policy(policy) => sim.decider.reload(&guards.config(policy)),
            Step::Wish(job, hold) => {
                let until_ns = None;
                let wish = Wish { hold, until_ns };
                sim.view.wishes.insert(OFFLINE[job].0.into(), wish);
            }
            Step::Unwish(job) => {
                sim.view.wishes.remove(&OFFLINE[job].0.into());
            }
            Step::Refuse(members) => sim.refuse_after = Some(members),
            Step::Join(job, gpu) => {
                let job = sim.job(OFFLINE[job].0);
                let pid = 1 + job.members.len() as u32;
                job.members.push(member(pid, gpu));
            }
            Step::Class(job, class) => sim.job(OFFLINE[job].0).class = class,
            Step::Hang => {
                hung = true;
                sim.decider.hung(sim.now_ns);
            }
            Step::GoOn => {
                hung = false;
                sim.decider.go_on();
            }
        }
        let before = sim.log.len();
        let jobs = sim.jobs.iter().filter(|(_, job)| job.is_releasing());
        let releasing: Vec<JobId> = jobs.map(|(id, _)| id.clone()).collect();
        let decision = sim.ask();
        prop_assert!(decision.next_ns > sim.now_ns);
        for decision in &sim.log[before..] {
            prop_assert!(!hung || decision.to_hold.is_empty());
            check_whole(&sim, decision)?;
            for id in &releasing {
                let released = decision.to_release.iter().any(|order| order.job == *id);
                prop_assert!(released, "{id} is ordered to run and then not to");
            }
        }
        // Whoever is held is kept or released, and nobody but offline jobs is kept, and after a hang nobody.
        for (id, job) in &sim.jobs {
            let kept = decision.kept.iter().any(|kept| kept.job == *id)
                || decision.to_hold.iter().any(|order| order.job == *id);
            let released = decision.to_release.iter().any(|order| order.job == *id);
            prop_assert!(!(kept && released));
            prop_assert!(!job.job.is_held() || kept || released, "{id} is forgotten");
            prop_assert!(!kept || (job.job.class == Class::Offline && !hung));
            prop_assert!(!kept || !job.job.is_split(), "{id} is split");
        }
        if let Step::Wait(thousandths) = *step {
            let wait = (decision.next_ns - sim.now_ns) / 1000 * thousandths;
            // As long as it was told exactly, if all of it is waited.
            let at = match thousandths {
                1000 => decision.next_ns,
                _ => sim.now_ns + wait,
            };
            sim.advance_to(at);
        }
    }
    Ok(sim)
}

/// An order is about all processes of a job and all their GPUs.
fn check_whole(sim: &Sim, decision: &Decision) -> Result<(), TestCaseError> {
    let holds = decision
        .to_hold
        .iter()
        .map(|o| (&o.job, &o.pids, &o.gpus, true));
    let releases = decision
        .to_release
        .iter()
        .map(|o| (&o.job, &o.pids, &o.gpus, false));
    let mut seen = BTreeSet::new();
    for (job, pids, gpus, _) in holds.chain(releases) {
        prop_assert!(seen.insert(job), "one order for each job");
        let job = &sim.jobs[job].job;
        prop_assert_eq!(pids.len(), job.members.len());
        prop_assert_eq!(gpus, &job.gpus().into_iter().collect::<Vec<_>>());
    }
    Ok(())
}

fn check_pauses(guards: &Guards, sim: &Sim) -> Result<(), TestCaseError> {
    let budget = (guards.window_ms as f64 * guards.pause_share * 1e6).ceil() as u64;
    let window = guards.window_ms * MS;
    for (id, job) in &sim.jobs {
        let pauses = job.all_pauses(sim.now_ns);
        for (from, to) in &pauses {
            prop_assert!(
                to - from <= guards.longest_pause_ns(),
                "{id} was held for {} ms",
                (to - from) / MS
            );
            let of_window: u64 = pauses
                .iter()
                .map(|(f, t)| t.min(to).saturating_sub(*f.max(&(to - window))))
                .sum();
            prop_assert!(
                of_window <= budget,
                "{id} was held for {} ms of the window",
                of_window / MS
            );
        }
        for pair in pauses.windows(2) {
            let run = pair[1].0 - pair[0].1;
            prop_assert!(
                run >= guards.min_run_ms * MS,
                "{id} ran for {} ms",
                run / MS
            );
        }
    }
    Ok(())
}

fn check_rate(guards: &Guards, sim: &Sim) -> Result<(), TestCaseError> {
    let window = guards.rate_window_ms * MS;
    for (gpu_id, end) in &sim.preempted {
        let begin = end - window;
        let of_gpu = sim.preempted.iter().filter(|(gpu, _)| gpu == gpu_id);
        let count = of_gpu.filter(|(_, at)| (begin..=*end).contains(at)).count();
        prop_assert!(
            count <= guards.preemptions as usize,
            "{gpu_id} was preempted {count} times"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_sequence_passes_a_guard(guards in any_guards(), steps in vec(any_step(), 1..120)) {
        let sim = play(&guards, &steps)?;
        check_pauses(&guards, &sim)?;
        check_rate(&guards, &sim)?;
    }

    #[test]
    fn whoever_is_not_wanted_is_released(guards in any_guards(), steps in vec(any_step(), 1..60)) {
        let mut sim = play(&guards, &steps)?;
        sim.decider.reload(&guards.config(0));
        sim.view.wishes.clear();
        let held: Vec<JobId> = sim
            .jobs
            .values()
            .filter(|job| job.job.is_held())
            .map(|job| job.job.id.clone())
            .collect();
        let released: Vec<JobId> = sim.ask().to_release.into_iter().map(|o| o.job).collect();
        prop_assert_eq!(released, held);
        sim.advance_to(sim.now_ns + sim.release_ns);
        prop_assert!(sim.jobs.values().all(|job| !job.job.is_held()));
        prop_assert!(!sim.ask().is_news());
    }

    #[test]
    fn the_same_past_gives_the_same_decisions(guards in any_guards(), steps in vec(any_step(), 1..60)) {
        prop_assert_eq!(play(&guards, &steps)?.log, play(&guards, &steps)?.log);
    }

    #[test]
    fn absurd_figures_are_survived(
        asks in vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>(), 0usize..5), 1..40),
        cost_ns in prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
    ) {
        let guards = Guards {
            max_pause_ms: 1000,
            min_run_ms: 10,
            pause_share: 0.9,
            window_ms: 2000,
            preemptions: 3,
            rate_window_ms: 100,
            collective_ms: 60_000,
            margin_ms: 5,
            rounds: Rounds::Process,
        };
        let mut decider = Decider::new(&guards.config(1));
        let mut view = View::default();
        view.cost.latency_ns = cost_ns;
        let mut latest = 0;
        for (now_ns, since_ns, other_ns, held, policy) in asks {
            decider.reload(&guards.config(policy));
            view.jobs.clear();
            for (n, class) in [Class::Offline, Class::Offline, Class::Online].into_iter().enumerate() {
                let mut job = Job::new(JobId::from(["a", "b", "c"][n]), class, since_ns);
                job.weight = 0;
                job.run_ns = other_ns;
                job.activity.last_ns = Some(other_ns);
                job.members.push(Member { held, ..member(7, 1) });
                view.jobs.push(job);
            }
            view.latencies = vec![Latency { ts_ns: other_ns, latency_ns: since_ns }];
            let decision = decider.decide(&view, now_ns);
            latest = latest.max(now_ns);
            prop_assert_eq!(decision.now_ns, latest, "time does not go back");
            prop_assert!(decision.next_ns > latest || latest == u64::MAX);
            let due = decision.kept.iter().map(|kept| kept.until_ns);
            for until_ns in due.chain(decision.to_hold.iter().map(|order| order.until_ns)) {
                prop_assert!(until_ns >= decision.next_ns.saturating_add(cost_ns));
                prop_assert!(until_ns - latest <= guards.longest_pause_ns());
            }
        }
    }
}

/// What the properties say is worth something only if jobs are held at all, and guards are met.
#[test]
fn the_sequences_do_meet_every_guard() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut met = BTreeSet::new();
    let mut pauses = 0;
    for _ in 0..200 {
        let mut draw = |strategy: BoxedStrategy<(Guards, Vec<Step>)>| {
            use proptest::strategy::ValueTree;
            strategy.new_tree(&mut runner).unwrap().current()
        };
        let (guards, steps) = draw((any_guards(), vec(any_step(), 60..120)).boxed());
        let sim = play(&guards, &steps).unwrap();
        pauses += sim.jobs.values().map(|job| job.pauses.len()).sum::<usize>();
        met.extend(
            sim.log
                .iter()
                .flat_map(|d| d.denied.iter().map(|d| d.guard)),
        );
    }
    assert!(pauses > 500, "{pauses}");
    use GuardName as G;
    let all = [
        G::Class,
        G::Hang,
        G::Refusal,
        G::Gang,
        G::MaxPause,
        G::Collective,
        G::MinRun,
        G::PauseShare,
        G::Rate,
    ];
    assert_eq!(met, all.into_iter().collect());
}

#[test]
fn a_job_that_waits_forever_is_let_run_by_the_guards() {
    let text = "[policy]\nname = \"priority\"\n[guards]\nmax_pause = \"2s\"\nmin_run = \"300ms\"\npause_share = 0.8\nwindow = \"20s\"\n";
    let mut sim = Sim::new(text);
    sim.view.hints = 1;
    sim.release_ns = 10 * MS;
    sim.add("train", Class::Offline, &[1]);
    sim.run(200 * S, S, |_| {});
    let part = sim.run_part("train", 100 * S);
    assert!((0.2..0.3).contains(&part), "it ran {part}");
}
