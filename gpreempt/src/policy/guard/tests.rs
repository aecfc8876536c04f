// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each guard by itself.

use super::super::tests::{member, Sim, MS, S};
use super::super::{Class, Config, Decision, GuardName, Rounds, Trigger, Wish};

fn sim(guards: &str) -> Sim {
    let mut sim = Sim::new(&format!("[guards]\npause_share = 1\n{guards}"));
    sim.add("train", Class::Offline, &[1, 2]).rule = Some(3);
    wish(&mut sim, "train");
    sim
}

fn wish(sim: &mut Sim, job: &str) {
    let wish = Wish {
        hold: true,
        until_ns: None,
    };
    sim.view.wishes.insert(job.into(), wish);
}

fn denied(decision: &Decision) -> Vec<GuardName> {
    decision.denied.iter().map(|denied| denied.guard).collect()
}

/// Goes from one time that was told to the next until the job is released, and returns by which guard and after how long.
fn held_until_released(sim: &mut Sim) -> (Option<GuardName>, u64) {
    let begin = sim.now_ns;
    let mut decision = sim.ask();
    assert!(sim.is_held("train"));
    while decision.to_release.is_empty() {
        sim.advance_to(decision.next_ns);
        decision = sim.ask();
    }
    (decision.to_release[0].guard, sim.now_ns - begin)
}

#[test]
fn the_shortest_bound_ends_a_pause_and_the_margin_comes_off_it() {
    for (guards, guard, bound) in [
        ("max_pause = \"2s\"", GuardName::MaxPause, 2 * S),
        (
            "collective_timeout = \"3s\"",
            GuardName::Collective,
            1500 * MS,
        ),
        (
            "window = \"800ms\"\npause_share = 0.5",
            GuardName::PauseShare,
            400 * MS,
        ),
    ] {
        let guards = guards.replace("\npause_share = 0.5", "");
        let share = if guard == GuardName::PauseShare {
            0.5
        } else {
            1.0
        };
        let text = format!("[guards]\npause_share = {share}\nmargin = \"30ms\"\n{guards}");
        let mut sim = Sim::new(&text);
        sim.add("train", Class::Offline, &[1]);
        wish(&mut sim, "train");
        let (by, after) = held_until_released(&mut sim);
        assert_eq!(by, Some(guard));
        assert_eq!(after, bound - 31 * MS, "{guard}");
    }
}

#[test]
fn a_rule_can_only_tighten() {
    for (rule_ns, bound) in [(S, S), (5 * S, 2 * S)] {
        let mut sim = sim("max_pause = \"2s\"\nmargin = \"0s\"");
        sim.job("train").max_pause_ns = Some(rule_ns);
        assert_eq!(sim.ask().to_hold[0].until_ns, sim.now_ns + bound);
    }
    for (rule_ns, run) in [(100 * MS, 200 * MS), (700 * MS, 700 * MS)] {
        let mut sim = sim("min_run = \"200ms\"\nmax_pause = \"1s\"");
        sim.job("train").min_run_ns = Some(rule_ns);
        held_until_released(&mut sim);
        let decision = sim.ask();
        assert_eq!(denied(&decision), [GuardName::MinRun]);
        assert_eq!(decision.denied[0].retry_ns, Some(sim.now_ns + run));
    }
}

#[test]
fn what_a_preemption_costs_is_taken_off_too() {
    let mut sim = sim("max_pause = \"1s\"\nmargin = \"10ms\"");
    sim.view.cost.latency_ns = 100 * MS;
    let (_, after) = held_until_released(&mut sim);
    assert_eq!(after, 899 * MS);
}

#[test]
fn an_order_names_everything() {
    let mut sim = sim("");
    let order = sim.ask().to_hold.remove(0);
    assert_eq!(order.rule, Some(3));
    assert_eq!(order.trigger, Trigger::Wish);
    let json = serde_json::to_value(&order).unwrap();
    assert_eq!(json["job"], "train");
    assert_eq!(json["pids"], serde_json::json!([1, 2]));
    assert_eq!(json["gpus"], serde_json::json!([1, 2]));
    assert_eq!(json["trigger"], "wish");
}

#[test]
fn a_decision_survives_the_audit_log() {
    let mut sim = sim("max_pause = \"1s\"");
    held_until_released(&mut sim);
    sim.ask();
    for decision in &sim.log {
        let line = serde_json::to_string(decision).unwrap();
        assert_eq!(&serde_json::from_str::<Decision>(&line).unwrap(), decision);
    }
}

#[test]
fn a_gpu_is_preempted_so_often_and_no_more() {
    let mut sim =
        sim("preemptions = 2\nrate_window = \"10s\"\nmin_run = \"0s\"\nmax_pause = \"1s\"");
    for _ in 0..2 {
        held_until_released(&mut sim);
    }
    let decision = sim.ask();
    assert_eq!(denied(&decision), [GuardName::Rate]);
    let retry = decision.denied[0].retry_ns.unwrap();
    assert_eq!(retry, 1010 * S + 1, "the first one leaves the window");
    sim.run(retry - sim.now_ns - 1, S, |_| {});
    assert!(!sim.is_held("train"));
    sim.advance_to(retry);
    assert_eq!(sim.ask().to_hold.len(), 1);
}

#[test]
fn jobs_of_one_call_share_a_preemption_where_the_means_allow_it() {
    for (rounds, held) in [(Rounds::Call, 2), (Rounds::Process, 1)] {
        let mut sim = sim("preemptions = 1");
        sim.add("other", Class::Offline, &[2]);
        wish(&mut sim, "other");
        sim.view.cost.rounds = rounds;
        assert_eq!(sim.ask().to_hold.len(), held, "{rounds:?}");
    }
}

#[test]
fn a_gang_that_needs_more_than_is_ever_allowed_is_not_held() {
    let mut sim = sim("preemptions = 1");
    sim.view.cost.rounds = Rounds::Process;
    sim.job("train").members.push(member(3, 1));
    let decision = sim.ask();
    assert_eq!(denied(&decision), [GuardName::Rate]);
    assert_eq!(decision.denied[0].retry_ns, None);
}

#[test]
fn a_gang_is_released_when_the_driver_refuses_a_part_of_it() {
    let mut sim = sim("min_run = \"0s\"");
    sim.refuse_after = Some(1);
    sim.ask();
    let [.., ordered, after] = &sim.log[..] else {
        panic!("it is asked again after a refusal");
    };
    assert_eq!(ordered.to_hold.len(), 1);
    assert_eq!(after.to_release[0].guard, Some(GuardName::Gang));
    assert_eq!(after.to_release[0].pids.len(), 2);
    assert!(!sim.is_held("train"));
    sim.advance_to(sim.now_ns + 999 * MS);
    assert_eq!(denied(&sim.ask()), [GuardName::Refusal]);
    sim.advance_to(sim.now_ns + MS);
    assert_eq!(sim.ask().to_hold.len(), 1);
}

#[test]
fn a_process_that_joins_a_held_gang_is_held_or_the_gang_is_released() {
    for (preemptions, held) in [(2, true), (1, false)] {
        let mut sim = sim(&format!("preemptions = {preemptions}"));
        let until_ns = sim.ask().to_hold[0].until_ns;
        sim.advance_to(sim.now_ns + 100 * MS);
        sim.job("train").members.push(member(3, 2));
        let decision = sim.ask();
        assert_eq!(sim.is_held("train"), held);
        match held {
            true => {
                assert_eq!(decision.to_hold[0].pids.len(), 3);
                assert_eq!(decision.to_hold[0].until_ns, until_ns, "no new pause");
            }
            false => assert_eq!(decision.to_release[0].guard, Some(GuardName::Gang)),
        }
    }
}

#[test]
fn after_a_hang_nothing_is_held_until_somebody_says_so() {
    let mut sim = sim("");
    sim.ask();
    sim.decider.hung(sim.now_ns);
    assert_eq!(sim.ask().to_release[0].guard, Some(GuardName::Hang));
    sim.decider
        .reload(&Config::parse("[guards]\nmin_run = \"0s\"").unwrap());
    sim.run(100 * S, S, |_| {});
    assert_eq!(denied(&sim.ask()), [GuardName::Hang]);
    sim.decider.go_on();
    assert_eq!(sim.ask().to_hold.len(), 1);
}

#[test]
fn a_release_is_ordered_until_it_is_seen() {
    let mut sim = sim("max_pause = \"1s\"");
    sim.release_ns = 10 * S;
    held_until_released(&mut sim);
    for _ in 0..5 {
        let next = sim.ask().next_ns;
        assert!(next <= sim.now_ns + 50 * MS);
        sim.advance_to(next);
        assert_eq!(sim.ask().to_release.len(), 1);
    }
}

#[test]
fn a_job_that_is_on_its_way_is_not_stopped_again() {
    let mut sim = sim("");
    sim.release_ns = 30 * MS;
    let wishes = sim.view.wishes.clone();
    sim.ask();
    sim.view.wishes.clear();
    sim.ask();
    sim.view.wishes = wishes;
    sim.advance_to(sim.now_ns + 10 * MS);
    let decision = sim.ask();
    assert_eq!(denied(&decision), [GuardName::MinRun]);
    assert_eq!(decision.to_release.len(), 1);
    sim.advance_to(sim.now_ns + 20 * MS);
    assert!(!sim.is_held("train"));
    let decision = sim.ask();
    assert_eq!(decision.denied[0].retry_ns, Some(sim.now_ns + 200 * MS));
}

#[test]
fn a_longer_window_finds_the_pauses_of_the_shorter_one() {
    let guards =
        |window: &str| format!("window = \"{window}\"\nmin_run = \"0s\"\nmax_pause = \"1s\"");
    let mut sim = sim(&guards("5s"));
    sim.run(60 * S, S, |_| {});
    let text = format!("[guards]\npause_share = 0.1\n{}", guards("100s"));
    sim.decider.reload(&Config::parse(&text).unwrap());
    sim.ask();
    assert!(!sim.is_held("train"));
    let decision = sim.ask();
    assert_eq!(denied(&decision), [GuardName::PauseShare]);
    let retry = decision.denied[0].retry_ns.unwrap();
    assert!(retry > sim.now_ns + 50 * S);
}

#[test]
fn a_job_that_is_held_at_the_start_is_taken_over() {
    let mut sim = sim("max_pause = \"2s\"");
    sim.job("train").members[0].held = true;
    sim.job("train").members[1].held = true;
    sim.job("train").since_ns = sim.now_ns - S;
    assert_eq!(sim.ask().kept[0].until_ns, sim.now_ns + S);
    sim.view.wishes.clear();
    assert_eq!(sim.ask().to_release.len(), 1);
}
