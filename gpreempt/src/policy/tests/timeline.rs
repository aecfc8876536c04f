// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each policy does on a timeline, with guards wide enough not to matter unless the test is about them.

use super::super::*;
use super::{Sim, MS, S};

const WIDE: &str = "[guards]
max_pause = \"1h\"
collective_timeout = \"3h\"
min_run = \"0s\"
pause_share = 1
window = \"1h\"
preemptions = 1000
margin = \"1ms\"
";

fn sim(policy: &str) -> Sim {
    Sim::new(&format!("{WIDE}{policy}"))
}

/// An online job with packets in its queues for the first part of each period.
fn bursts(sim: &mut Sim, period_ns: u64, busy_ns: u64) -> bool {
    let busy = sim.now_ns % period_ns < busy_ns;
    let now_ns = sim.now_ns;
    let activity = &mut sim.job("serve").activity;
    if busy || activity.pending > 0 {
        activity.last_ns = Some(now_ns);
    }
    activity.pending = u64::from(busy);
    busy
}

#[test]
fn manual_holds_what_was_asked_for_and_nothing_else() {
    let mut sim = sim("");
    sim.add("serve", Class::Online, &[1]).activity.pending = 9;
    sim.add("train", Class::Offline, &[1]);
    sim.add("batch", Class::Offline, &[1]);
    assert_eq!(sim.ask().to_hold, []);
    let until_ns = Some(sim.now_ns + S);
    let wish = Wish {
        hold: true,
        until_ns,
    };
    sim.view.wishes.insert("batch".into(), wish);
    sim.view.wishes.insert("serve".into(), wish);
    let decision = sim.ask();
    assert_eq!(decision.to_hold.len(), 1);
    assert_eq!(decision.to_hold[0].job, "batch".into());
    assert_eq!(decision.to_hold[0].trigger, Trigger::Wish);
    assert_eq!(decision.denied[0].job, "serve".into());
    assert_eq!(decision.denied[0].guard, GuardName::Class);
    assert_eq!(Some(decision.next_ns), until_ns);
    sim.advance_to(decision.next_ns);
    assert_eq!(sim.ask().to_release[0].job, "batch".into());
    assert!(!sim.is_held("batch"));
}

#[test]
fn a_wish_to_run_is_above_the_policy() {
    let mut sim = sim("[policy]\nname = \"priority\"\n");
    sim.view.hints = 1;
    sim.add("train", Class::Offline, &[1]);
    sim.add("batch", Class::Offline, &[1]);
    let wish = Wish {
        hold: false,
        until_ns: None,
    };
    sim.view.wishes.insert("batch".into(), wish);
    sim.ask();
    assert!(sim.is_held("train") && !sim.is_held("batch"));
}

#[test]
fn priority_holds_exactly_while_online_is_active_and_a_linger_after() {
    let mut sim = sim("[policy]\nname = \"priority\"\n[policy.priority]\nlinger = \"30ms\"\n");
    sim.add("serve", Class::Online, &[1]);
    sim.add("train", Class::Offline, &[1, 2]);
    sim.add("elsewhere", Class::Offline, &[3]);
    sim.add("unknown", Class::Ignore, &[1]);
    sim.run(2 * S, MS, |sim| {
        bursts(sim, 200 * MS, 70 * MS);
    });
    let begin = 1000 * S;
    let expected: Vec<(u64, u64)> = (0..10)
        .map(|n| begin + n * 200 * MS)
        .map(|from| (from, from + 100 * MS))
        .collect();
    assert_eq!(sim.jobs[&"train".into()].pauses, expected);
    for id in ["elsewhere", "unknown", "serve"] {
        assert_eq!(sim.jobs[&id.into()].pauses, [], "{id}");
    }
}

#[test]
fn priority_bridges_gaps_and_says_why() {
    let mut sim = sim("[policy]\nname = \"priority\"\n[policy.priority]\nlinger = \"30ms\"\n");
    sim.add("serve", Class::Online, &[1]);
    sim.add("train", Class::Offline, &[1]);
    sim.run(S, MS, |sim| {
        bursts(sim, 50 * MS, 25 * MS);
    });
    assert_eq!(sim.jobs[&"train".into()].pauses, [], "it never ended");
    assert!(sim.is_held("train"));
    let triggers = |log: &[Decision]| -> Vec<Trigger> {
        log.iter()
            .flat_map(|decision| &decision.kept)
            .map(|kept| kept.trigger)
            .collect()
    };
    let seen = triggers(&sim.log);
    assert!(seen.contains(&Trigger::Pending) && seen.contains(&Trigger::Linger));
    sim.view.hints = 1;
    sim.log.clear();
    sim.ask();
    assert_eq!(triggers(&sim.log), [Trigger::Hint]);
}

#[test]
fn timeslice_gives_offline_jobs_the_first_part_of_each_period() {
    let policy =
        "[policy]\nname = \"timeslice\"\n[policy.timeslice]\nperiod = \"100ms\"\nshare = 0.3\n";
    let mut sim = sim(policy);
    sim.add("serve", Class::Online, &[1]);
    sim.add("train", Class::Offline, &[1]);
    sim.add("batch", Class::Offline, &[1]);
    sim.add("elsewhere", Class::Offline, &[2]);
    sim.run(S, S, |_| {});
    let expected: Vec<(u64, u64)> = (0..10)
        .map(|n| 1000 * S + n * 100 * MS)
        .map(|from| (from + 30 * MS, from + 100 * MS))
        .collect();
    let pauses = sim.jobs[&"train".into()].all_pauses(sim.now_ns);
    assert_eq!(pauses, expected);
    assert_eq!(sim.jobs[&"batch".into()].all_pauses(sim.now_ns), expected);
    assert_eq!(sim.jobs[&"elsewhere".into()].pauses, []);
    assert_eq!(sim.log.len(), 20, "it is asked when something changes only");
}

const SHARE: &str =
    "[policy]\nname = \"share\"\n[policy.share]\nturn = \"100ms\"\nidle_after = \"20ms\"\n";

#[test]
fn share_gives_run_time_by_weight() {
    let mut sim = sim(SHARE);
    for (id, weight) in [("a", 1), ("b", 2), ("c", 5)] {
        let job = sim.add(id, Class::Offline, &[1]);
        job.weight = weight;
        job.activity.pending = 1;
    }
    sim.run(80 * S, S, |_| {});
    for (id, weight) in [("a", 1.0), ("b", 2.0), ("c", 5.0)] {
        let part = sim.run_part(id, 80 * S);
        assert!((part - weight / 8.0).abs() < 0.01, "{id} ran {part}");
    }
}

#[test]
fn share_lets_jobs_run_together_that_do_not_meet() {
    let mut sim = sim(SHARE);
    for (id, gpus) in [("a", &[1][..]), ("b", &[2]), ("both", &[1, 2])] {
        sim.add(id, Class::Offline, gpus).activity.pending = 1;
    }
    sim.run(20 * S, S, |_| {});
    for id in ["a", "b", "both"] {
        let part = sim.run_part(id, 20 * S);
        assert!((part - 0.5).abs() < 0.02, "{id} ran {part}");
    }
    let together = sim.jobs[&"a".into()].pauses == sim.jobs[&"b".into()].pauses;
    assert!(together, "a and b run at the same time");
}

#[test]
fn an_idle_job_is_not_held_takes_no_turn_and_saves_up_nothing() {
    let mut sim = sim(SHARE);
    sim.add("a", Class::Offline, &[1]).activity.pending = 1;
    sim.add("b", Class::Offline, &[1]).activity.pending = 1;
    sim.add("idle", Class::Offline, &[1]).activity.last_ns = Some(0);
    sim.run(10 * S, S, |_| {});
    assert_eq!(sim.jobs[&"idle".into()].pauses, []);
    assert!((sim.run_part("a", 10 * S) - 0.5).abs() < 0.02);
    sim.job("idle").activity.pending = 1;
    sim.run(9 * S, S, |_| {});
    for id in ["a", "b", "idle"] {
        let part = sim.run_part(id, 9 * S);
        assert!((part - 1.0 / 3.0).abs() < 0.03, "{id} ran {part}");
    }
}

const SLO: &str = "[policy]
name = \"slo\"
[policy.slo]
target = \"30ms\"
percentile = 0.9
window = \"2s\"
period = \"100ms\"
increase = 0.02
";

/// A request every 5 ms, the slower the more of the last period the offline job ran.
fn serve(sim: &mut Sim, slowdown_ns: f64) {
    let now_ns = sim.now_ns;
    sim.job("serve").activity.last_ns = Some(now_ns);
    let part = sim.run_part("train", 100 * MS);
    let latency_ns = 10 * MS + (slowdown_ns * part) as u64;
    sim.view.latencies.push(Latency {
        ts_ns: now_ns,
        latency_ns,
    });
}

#[test]
fn slo_holds_nobody_while_the_target_is_met() {
    let mut sim = sim(SLO);
    sim.add("serve", Class::Online, &[1]);
    sim.add("train", Class::Offline, &[1]);
    sim.run(20 * S, 5 * MS, |sim| serve(sim, 15e6));
    assert_eq!(sim.jobs[&"train".into()].all_pauses(sim.now_ns), []);
}

#[test]
fn slo_converges_to_the_share_that_the_target_allows() {
    // 10 ms + 40 ms * share meets 30 ms at a share of one half.
    let mut sim = sim(SLO);
    sim.add("serve", Class::Online, &[1]);
    sim.add("train", Class::Offline, &[1]);
    let mut latencies = Vec::new();
    sim.run(60 * S, 5 * MS, |sim| {
        serve(sim, 40e6);
        latencies.push(sim.view.latencies[0].latency_ns);
    });
    let settled = &latencies[latencies.len() / 3..];
    let missed = settled.iter().filter(|ns| **ns > 30 * MS).count();
    let missed = missed as f64 / settled.len() as f64;
    assert!(missed < 0.1, "the P90 is met, {missed} missed");
    let part = sim.run_part("train", 40 * S);
    assert!((0.3..0.5).contains(&part), "the offline job ran {part}");
    // The load goes: nobody is held any more.
    sim.run(20 * S, 5 * MS, |_| {});
    assert_eq!(sim.run_part("train", 5 * S), 1.0);
}

#[test]
fn slo_punishes_one_slow_moment_once() {
    let mut sim = sim(SLO);
    sim.add("serve", Class::Online, &[1]);
    sim.add("train", Class::Offline, &[1]);
    let begin = sim.now_ns;
    sim.run(1200 * MS, 5 * MS, |sim| {
        let ts_ns = sim.now_ns;
        sim.job("serve").activity.last_ns = Some(ts_ns);
        let slow = ts_ns - begin < 200 * MS;
        let latency_ns = if slow { 90 * MS } else { 10 * MS };
        sim.view.latencies.push(Latency { ts_ns, latency_ns });
    });
    let part = sim.run_part("train", S);
    assert!((0.5..0.7).contains(&part), "half and a little more: {part}");
}

#[test]
fn slo_ends_at_the_floor_if_nothing_helps() {
    let mut sim = sim(SLO);
    sim.add("serve", Class::Online, &[1]);
    sim.add("train", Class::Offline, &[1]);
    sim.run(30 * S, 5 * MS, |sim| {
        let ts_ns = sim.now_ns;
        sim.job("serve").activity.last_ns = Some(ts_ns);
        sim.view.latencies.push(Latency {
            ts_ns,
            latency_ns: 90 * MS,
        });
    });
    let part = sim.run_part("train", 10 * S);
    assert!((0.04..0.06).contains(&part), "the offline job ran {part}");
    // Other guards are no other policy: it goes on with what it knows.
    let text = format!("{}{SLO}", WIDE.replace("\"1ms\"", "\"2ms\""));
    sim.decider.reload(&Config::parse(&text).unwrap());
    sim.run(100 * MS, 5 * MS, |sim| {
        let now_ns = sim.now_ns;
        sim.job("serve").activity.last_ns = Some(now_ns);
    });
    assert!(sim.run_part("train", 100 * MS) < 0.1);
}

#[test]
fn slo_waits_a_window_before_few_requests_count() {
    let mut sim = sim(SLO);
    sim.add("serve", Class::Online, &[1]);
    sim.add("train", Class::Offline, &[1]);
    let slow = |sim: &mut Sim| {
        let ts_ns = sim.now_ns;
        sim.job("serve").activity.last_ns = Some(ts_ns);
        if ts_ns.is_multiple_of(500 * MS) {
            let latency_ns = 90 * MS;
            sim.view.latencies.push(Latency { ts_ns, latency_ns });
        }
    };
    sim.run(2 * S, 50 * MS, slow);
    assert_eq!(sim.run_part("train", 2 * S), 1.0);
    sim.run(S, 50 * MS, slow);
    assert!(sim.run_part("train", S) < 0.6);
}

#[test]
fn another_policy_finds_the_same_past() {
    let config = |policy: &str| {
        Config::parse(&format!(
            "[policy]\nname = \"{policy}\"\n[guards]\nmax_pause = \"1s\"\nmin_run = \"500ms\"\n"
        ))
        .unwrap()
    };
    let mut sim = Sim::new("");
    sim.decider = Decider::new(&config("priority"));
    sim.view.hints = 1;
    sim.add("train", Class::Offline, &[1]);
    sim.ask();
    assert!(sim.is_held("train"));
    sim.run(900 * MS, 10 * MS, |_| {});
    sim.decider.reload(&config("manual"));
    assert_eq!(sim.ask().to_release[0].guard, None);
    sim.decider.reload(&config("priority"));
    let decision = sim.ask();
    assert_eq!(decision.denied[0].guard, GuardName::MinRun);
    assert_eq!(decision.denied[0].retry_ns, Some(sim.now_ns + 500 * MS));
    assert_eq!(decision.next_ns, sim.now_ns + 500 * MS);
}
