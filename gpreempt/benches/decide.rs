// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one decision takes with a thousand queues in a hundred processes, by each policy: `cargo bench -p gpreempt --bench decide`. One
//! JSON line for each policy, with the time of every decision. `cargo xtask bench react` reads it.

use std::collections::BTreeSet;
use std::time::Instant;

use gpreempt::event::{GpuId, Pid};
use gpreempt::policy::{
    Activity, Assigned, Class, Config, Decider, Decision, Job, JobId, Latency, Member, View,
};
use serde_json::json;

const PROCESSES: u32 = 100;
const QUEUES_OF_EACH: u32 = 10;
const GPUS: u32 = 8;
const DECISIONS: u64 = 3000;
const MS: u64 = 1_000_000;

/// Each process has its queues on several GPUs, every one in four is online, every two offline ones are a gang.
fn members() -> Vec<(Assigned, Member)> {
    let of = |number: u32| {
        let pid = Pid(1000 + number);
        let online = number.is_multiple_of(4);
        let assigned = Assigned {
            job: match online {
                true => JobId::of(pid),
                false => JobId::from(format!("gang-{}", number / 2).as_str()),
            },
            class: if online {
                Class::Online
            } else {
                Class::Offline
            },
            rule: Some(1),
            weight: 1 + number % 3,
            max_pause_ns: None,
            min_run_ns: None,
        };
        let gpus: BTreeSet<GpuId> = (0..QUEUES_OF_EACH)
            .map(|queue| GpuId(1 + (number + queue) % GPUS))
            .collect();
        let held = false;
        (assigned, Member { pid, gpus, held })
    };
    (0..PROCESSES).map(of).collect()
}

/// Does what was decided.
fn obey(members: &mut [(Assigned, Member)], decision: &Decision) {
    let held: BTreeSet<Pid> = decision
        .to_hold
        .iter()
        .flat_map(|order| order.pids.iter().copied())
        .collect();
    let released: BTreeSet<Pid> = decision
        .to_release
        .iter()
        .flat_map(|order| order.pids.iter().copied())
        .collect();
    for (_, member) in members {
        member.held =
            (member.held || held.contains(&member.pid)) && !released.contains(&member.pid);
    }
}

fn main() {
    // What `cargo test --benches` and `cargo bench` hand over is of no use here.
    let short = !std::env::args().any(|argument| argument == "--bench");
    let guards = "[guards]\nmin_run = \"5ms\"\npreemptions = 1000\npause_share = 0.9\n";
    for policy in ["manual", "priority", "timeslice", "share", "slo"] {
        let text =
            format!("[policy]\nname = \"{policy}\"\n[policy.slo]\ntarget = \"20ms\"\n{guards}");
        let config = Config::parse(&text).expect("the configuration is one");
        let mut decider = Decider::new(&config);
        let mut members = members();
        let (mut took_ns, mut orders) = (Vec::new(), 0);
        for turn in 0..if short { 50 } else { DECISIONS } {
            let now_ns = 1_000_000 * MS + turn * 2 * MS;
            let mut jobs = Job::gather(members.iter().cloned(), now_ns);
            // For twenty turns somebody has work, for twenty nobody has.
            let busy = (turn / 20).is_multiple_of(2);
            for job in &mut jobs {
                job.since_ns = now_ns - 50 * MS;
                job.activity = Activity {
                    pending: u64::from(busy && job.class == Class::Online),
                    last_ns: Some(now_ns - if busy { 0 } else { 60 * MS }),
                    counted_ns: None,
                };
            }
            let view = View {
                jobs,
                hints: u32::from(busy && turn.is_multiple_of(3)),
                latencies: vec![Latency {
                    ts_ns: now_ns,
                    latency_ns: (turn % 50) * MS,
                }],
                ..View::default()
            };
            let started = Instant::now();
            let decision =
                std::hint::black_box(decider.decide(std::hint::black_box(&view), now_ns));
            took_ns.push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
            orders += decision.to_hold.len() + decision.to_release.len();
            obey(&mut members, &decision);
        }
        assert!(
            policy == "manual" || short || orders > 20,
            "{policy} ordered {orders} times: nothing was decided"
        );
        println!(
            "{}",
            json!({ "policy": policy, "processes": PROCESSES, "queues": PROCESSES * QUEUES_OF_EACH, "orders": orders, "took_ns": took_ns })
        );
    }
}
