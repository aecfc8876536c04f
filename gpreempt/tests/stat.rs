// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stat` as a user sees it, on scripts of records.

mod common;

use common::{comm, created, life, record, Head, Tree, GPU};
use gpreempt_common::record::{self as rec, cause};
use serde_json::Value;
use snapbox::str;

fn lines(stdout: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stdout).expect("JSON is UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

fn of<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines
        .iter()
        .filter(|line| line["type"] == kind)
        .map(|line| &line["data"])
        .collect()
}

fn head(at_us: u64, took_us: u64, cause: u16, pid: u32) -> Head {
    Head {
        at_us,
        took_us,
        cause,
        pid,
        ..Head::default()
    }
}

fn unmap(at_us: u64, took_us: u64, cause: u16, pid: u32) -> Vec<u8> {
    record(
        head(at_us, took_us, cause, pid),
        rec::RunlistUnmapped {
            lock_wait_ns: 500,
            fence_ns: took_us * 900,
            gpu_id: GPU,
            filter: 2,
        },
    )
}

fn map(at_us: u64, cause: u16, pid: u32, queues: u32, oversubscribed: u32) -> Vec<u8> {
    record(
        head(at_us, 4, cause, pid),
        rec::RunlistMapped {
            gpu_id: GPU,
            queues,
            cp_queues: queues,
            processes: 2,
            oversubscribed,
            reserved: 0,
        },
    )
}

/// Two processes; the second creates one queue more than there are slots, and goes on.
fn crowd() -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut at = 0;
    for queue in 0..25 {
        let (pid, id, name) = match queue {
            0..20 => (212, queue, b"trainer"),
            _ => (300, queue - 20, b"service"),
        };
        at += 1000;
        if queue > 0 {
            records.push(unmap(at, 50 + u64::from(queue), cause::CREATE_QUEUE, pid));
        }
        let over = u32::from(queue >= 24);
        records.push(map(at + 6, cause::CREATE_QUEUE, pid, queue + 1, over));
        let create = head(at + 10, 150, cause::CREATE_QUEUE, pid);
        records.push(created(create, id, name));
    }
    // Off for 2 ms by its own will.
    records.push(unmap(30_000, 100, cause::UPDATE_QUEUE, 300));
    records.push(map(30_010, cause::UPDATE_QUEUE, 300, 24, 0));
    let update = |at, percent| {
        record(
            head(at, 130, cause::UPDATE_QUEUE, 300),
            rec::QueueUpdated {
                gpu_id: GPU,
                queue_id: 4,
                priority: 7,
                percent,
                active: u32::from(percent > 0),
                reserved: 0,
            },
        )
    };
    records.push(update(30_020, 0));
    records.push(unmap(32_000, 100, cause::UPDATE_QUEUE, 300));
    records.push(map(32_010, cause::UPDATE_QUEUE, 300, 25, 1));
    records.push(update(32_020, 100));
    // So that the time is round.
    records.push(record(
        head(1_000_000, 0, 0, 400),
        rec::ProcessAttached {
            start_boottime_ns: 5,
            cgroup_id: 7,
            ns_pid: 400,
            reserved: 0,
            comm: comm(b"\x1b[31mlate"),
        },
    ));
    records
}

#[test]
fn the_life_of_a_process() {
    let tree = Tree::with_gpu("stat-life");
    tree.scripted("stat", &life())
        .args(["0.1", "--wait"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
21 events in 9.40s, 0 lost
LATENCY            COUNT  RATE/S     MIN     P50     P90     P99   P99.9     MAX
create                 2    0.21   148µs   148µs   160µs   160µs   160µs   160µs
update                 1    0.11    90µs    90µs    90µs    90µs    90µs    90µs
destroy                1    0.11    95µs    95µs    95µs    95µs    95µs    95µs
unmap                  3    0.32    66µs    70µs    75µs    75µs    75µs    75µs
fence                  3    0.32    58µs    61µs    62µs    62µs    62µs    62µs
lock wait              5    0.53   200ns   1.2µs   3.1µs   3.1µs   3.1µs   3.1µs
map                    2    0.21   3.0µs   3.0µs   4.0µs   4.0µs   4.0µs   4.0µs
evict                  1    0.11    80µs    80µs    80µs    80µs    80µs    80µs
restore                1    0.11    12µs    12µs    12µs    12µs    12µs    12µs
evicted                1    0.11   100ms   100ms   100ms   100ms   100ms   100ms
suspend                1    0.11   900µs   900µs   900µs   900µs   900µs   900µs
resume                 1    0.11    80µs    80µs    80µs    80µs    80µs    80µs
hold                   1    0.11    70µs    70µs    70µs    70µs    70µs    70µs
release                1    0.11   5.0µs   5.0µs   5.0µs   5.0µs   5.0µs   5.0µs
held                   1    0.11  30.0ms  30.0ms  30.0ms  30.0ms  30.0ms  30.0ms
off hardware           3    0.32    10µs  30.0ms   100ms   100ms   100ms   100ms
EVENT                      COUNT  RATE/S
process_attached               1    0.11
process_exited                 1    0.11
queue_created                  2    0.21
queue_updated                  1    0.11
queue_destroyed                2    0.21
queue_rejected                 1    0.11
runlist_unmapped               4    0.43
runlist_mapped                 2    0.21
process_evicted                1    0.11
process_restored               1    0.11
queues_suspended               1    0.11
queues_resumed                 1    0.11
gpu_reset                      1    0.11
queues_held                    1    0.11
queues_released                1    0.11
PROCESS                      GPU  QUEUES  PREEMPTED  BY OTHERS      OFF
kfd-load[212]               52a1       2          3          1    18.7s
FINDINGS
info preempted GPU 52a1 kfd-load[212]: 1 time by create_queue for kfd-load[212]: 1 queue on average, 75µs in taking them off and 10µs until they were submitted again, of 9.40s
     every queue that comes or goes takes all queues of its GPU off: keep processes and queues
info preempted GPU 52a1 kfd-load[212]: 1 time by evict for kfd-load[212]: 2 queues on average, 70µs in taking them off, of 9.40s
     memory is moved: see the reasons with `gpreempt stat --by cause`; leave VRAM free, pin less host memory
info preempted GPU 52a1 [300]: 1 time by hold for [300]: 2 queues on average, 66µs in taking them off, of 9.40s
     asked for: a hold or a reservation

"#]]);
}

#[test]
fn a_crowd_with_its_culprit() {
    Tree::with_gpu("stat-crowd")
        .scripted("stat", &crowd())
        .args(["0.1", "--by", "process"])
        .env("COLUMNS", "80")
        .assert()
        .success()
        .stdout_eq(str![[r#"
81 events in 999ms, 0 lost
LATENCY            COUNT  RATE/S     MIN     P50     P90     P99   P99.9     MAX
create                25    25.0   150µs   150µs   150µs   150µs   150µs   150µs
  trainer[212]        20    20.0   150µs   150µs   150µs   150µs   150µs   150µs
  service[300]         5    5.00   150µs   150µs   150µs   150µs   150µs   150µs
update                 2    2.00   130µs   130µs   130µs   130µs   130µs   130µs
  service[300]         2    2.00   130µs   130µs   130µs   130µs   130µs   130µs
unmap                 26    26.0    51µs    63µs    74µs   100µs   100µs   100µs
  trainer[212]        19    19.0    51µs    60µs    68µs    69µs    69µs    69µs
  service[300]         7    7.01    70µs    73µs   100µs   100µs   100µs   100µs
fence                 26    26.0    46µs    57µs    67µs    90µs    90µs    90µs
  trainer[212]        19    19.0    46µs    54µs    61µs    62µs    62µs    62µs
  service[300]         7    7.01    63µs    66µs    90µs    90µs    90µs    90µs
lock wait             26    26.0   500ns   500ns   500ns   500ns   500ns   500ns
  trainer[212]        19    19.0   500ns   500ns   500ns   500ns   500ns   500ns
  service[300]         7    7.01   500ns   500ns   500ns   500ns   500ns   500ns
map                   27    27.0   4.0µs   4.0µs   4.0µs   4.0µs   4.0µs   4.0µs
  trainer[212]        20    20.0   4.0µs   4.0µs   4.0µs   4.0µs   4.0µs   4.0µs
  service[300]         7    7.01   4.0µs   4.0µs   4.0µs   4.0µs   4.0µs   4.0µs
off hardware          27    27.0   6.0µs   6.0µs    10µs  2.01ms  2.01ms  2.01ms
  trainer[212]        19    19.0   6.0µs   6.0µs   6.0µs   6.0µs   6.0µs   6.0µs
  service[300]         8    8.01   6.0µs   6.0µs  2.01ms  2.01ms  2.01ms  2.01ms
EVENT                      COUNT  RATE/S
process_attached               1    1.00
queue_created                 25    25.0
queue_updated                  2    2.00
runlist_unmapped              26    26.0
runlist_mapped                27    27.0
PROCESS                      GPU  QUEUES  PREEMPTED  BY OTHERS      OFF
service[300]                52a1       5         19          0   2.15ms
trainer[212]                52a1      20        330        140   2.14ms
FINDINGS
WARN oversubscribed GPU 52a1 service[300]: for 968ms (2 times, 973ms in all): 25
     compute queues for 24 slots; service[300] crossed the line (update_queue)
     queues take turns for milliseconds: end or hold processes with idle queues,
     or give processes fewer queues
info preempted GPU 52a1 trainer[212]: 24 times by create_queue for 2 processes,
     most (19) for trainer[212]: 12 queues on average, 1.50ms in taking them off
     and 144µs until they were submitted again, of 999ms
     every queue that comes or goes takes all queues of its GPU off: keep
     processes and queues
info preempted GPU 52a1 service[300]: 2 times by update_queue for service[300]:
     24 queues on average, 200µs in taking them off and 20µs until they were
     submitted again, of 999ms
     every update takes all queues of the GPU off: change priorities and CU
     masks rarely

"#]])
        .stderr_eq(str![[r#""#]]);
}

#[test]
fn bars_of_one_process() {
    Tree::with_gpu("stat-bars")
        .scripted("stat", &crowd())
        .args(["0.1", "--histogram", "--pid", "300"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
21 events in 999ms, 60 more left out by filters, 0 lost
LATENCY            COUNT  RATE/S     MIN     P50     P90     P99   P99.9     MAX
create                 5    5.00   150µs   150µs   150µs   150µs   150µs   150µs
    131µs to   262µs       5 |########################################
update                 2    2.00   130µs   130µs   130µs   130µs   130µs   130µs
     66µs to   131µs       2 |########################################
unmap                  7    7.01    70µs    73µs   100µs   100µs   100µs   100µs
     66µs to   131µs       7 |########################################
fence                  7    7.01    63µs    66µs    90µs    90µs    90µs    90µs
     33µs to    66µs       3 |##############################
     66µs to   131µs       4 |########################################
lock wait              7    7.01   500ns   500ns   500ns   500ns   500ns   500ns
    256ns to   512ns       7 |########################################
map                    7    7.01   4.0µs   4.0µs   4.0µs   4.0µs   4.0µs   4.0µs
    2.0µs to   4.1µs       7 |########################################
off hardware           8    8.01   6.0µs   6.0µs  2.01ms  2.01ms  2.01ms  2.01ms
    4.1µs to   8.2µs       5 |########################################
    8.2µs to    16µs       2 |################
     16µs to    33µs       0 |
     33µs to    66µs       0 |
     66µs to   131µs       0 |
    131µs to   262µs       0 |
    262µs to   524µs       0 |
    524µs to  1.05ms       0 |
   1.05ms to  2.10ms       1 |########
EVENT                      COUNT  RATE/S
queue_created                  5    5.00
queue_updated                  2    2.00
runlist_unmapped               7    7.01
runlist_mapped                 7    7.01
PROCESS                      GPU  QUEUES  PREEMPTED  BY OTHERS      OFF
service[300]                52a1       5         19          0   2.15ms
FINDINGS
WARN oversubscribed GPU 52a1 service[300]: for 968ms (2 times, 973ms in all): 25 compute queues for 24 slots; service[300] crossed the line (update_queue)
     queues take turns for milliseconds: end or hold processes with idle queues, or give processes fewer queues
info preempted GPU 52a1 trainer[212]: 24 times by create_queue for 2 processes, most (19) for trainer[212]: 12 queues on average, 1.50ms in taking them off and 144µs until they were submitted again, of 999ms
     every queue that comes or goes takes all queues of its GPU off: keep processes and queues
info preempted GPU 52a1 service[300]: 2 times by update_queue for service[300]: 24 queues on average, 200µs in taking them off and 20µs until they were submitted again, of 999ms
     every update takes all queues of the GPU off: change priorities and CU masks rarely

"#]]);
}

#[test]
fn json_counts_exactly() {
    let output = Tree::with_gpu("stat-json")
        .scripted("stat", &crowd())
        .args(["0.1", "--format", "json", "--by", "cause"])
        .output()
        .expect("the program runs");
    assert!(output.status.success() && output.stderr.is_empty());
    let lines = lines(&output.stdout);
    let count = |event: &str| {
        let counts = of(&lines, "stat_count");
        let found = counts.iter().find(|count| count["event"] == event);
        found.map(|count| count["count"].as_u64().expect("a number"))
    };
    assert_eq!(count("queue_created"), Some(25));
    assert_eq!(count("runlist_unmapped"), Some(26));
    assert_eq!(count("runlist_mapped"), Some(27));
    assert_eq!(count("queue_updated"), Some(2));
    assert_eq!(count("queue_destroyed"), None);
    let latencies = of(&lines, "stat_latency");
    let what = |what: &str, cause: Option<&str>| -> Value {
        let found = latencies
            .iter()
            .find(|latency| latency["what"] == what && latency["group"]["cause"].as_str() == cause);
        (*found.expect(what)).clone()
    };
    let unmaps = what("unmap", None);
    assert_eq!(unmaps["count"], 26);
    assert_eq!(
        (&unmaps["min_ns"], &unmaps["max_ns"]),
        (&51_000.into(), &100_000.into())
    );
    assert_eq!(what("unmap", Some("update_queue"))["count"], 2);
    assert_eq!(what("unmap", Some("create_queue"))["count"], 24);
    // 26 runlists that followed another, and the queue that was at 0 %.
    let off = what("off_hardware", None);
    assert_eq!(off["count"], 27);
    assert_eq!(off["max_ns"], 2_010_000);
    let buckets: u64 = off["buckets"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|bucket| bucket["count"].as_u64().expect("a number"))
        .sum();
    assert_eq!(buckets, 27);
    let processes = of(&lines, "stat_process");
    let service = processes.iter().find(|process| process["pid"] == 300);
    let service = service.expect("the service");
    // Its five queues: by the creates after each of them 4+3+2+1, by two updates 5 and 4.
    assert_eq!(service["preemptions"], 10 + 5 + 4);
    assert_eq!(service["preemptions_own"], 19);
    let trainer = processes.iter().find(|process| process["pid"] == 212);
    let trainer = trainer.expect("the trainer");
    assert_eq!(trainer["preemptions"], 190 + 5 * 20 + 2 * 20);
    assert_eq!(trainer["preemptions_own"], 190);
    let over: Vec<&Value> = of(&lines, "finding")
        .into_iter()
        .filter(|finding| finding["kind"] == "oversubscribed")
        .collect();
    assert_eq!(over.len(), 1);
    assert_eq!(
        (&over[0]["pid"], &over[0]["comm"]),
        (&300.into(), &"service".into())
    );
    let summary = lines.last().expect("a line");
    assert_eq!(summary["type"], "stat_summary");
    assert_eq!(summary["data"]["events"], 25 + 26 + 27 + 2 + 1);
}

#[test]
fn intervals_are_those_of_the_events() {
    let mut records = Vec::new();
    for n in 0..4u64 {
        records.push(unmap(n * 700_000, 60, cause::EVICT, 212));
        records.push(map(n * 700_000 + 5, cause::EVICT, 212, 1, 0));
    }
    let output = Tree::with_gpu("stat-interval")
        .scripted("stat", &records)
        .args(["0.1", "--format", "json", "--interval", "1"])
        .output()
        .expect("the program runs");
    let lines = lines(&output.stdout);
    let counts: Vec<(bool, u64, u64)> = of(&lines, "stat_count")
        .iter()
        .filter(|count| count["event"] == "runlist_unmapped")
        .map(|count| {
            let number = |key: &str| count[key].as_u64().expect("a number");
            let interval = count["interval"].as_bool().expect("a boolean");
            (interval, number("duration_ns") / 1_000_000, number("count"))
        })
        .collect();
    assert_eq!(
        counts,
        [
            (true, 1000, 2),
            (true, 1000, 1),
            (true, 100, 1),
            (false, 2100, 4)
        ]
    );
}

#[test]
fn a_command_decides_the_exit_code() {
    let tree = Tree::with_gpu("stat-command");
    tree.scripted("stat", &life())
        .args(["--", "sh", "-c", "exit 7"])
        .assert()
        .code(7);
    tree.scripted("stat", &life())
        .args(["5", "--", "true"])
        .assert()
        .code(2);
    tree.scripted("stat", &[])
        .args(["0.1"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
0 events in 0ns, 0 lost
no events

"#]]);
}

#[test]
fn without_a_driver_there_is_nothing_to_measure() {
    Tree::new("stat-no-driver")
        .gpreempt()
        .args(["stat", "1"])
        .assert()
        .code(69);
}
