// SPDX-License-Identifier: MIT OR Apache-2.0
//! `queues` as a user sees it, on a tree of files: no root, no GPU, no kernel module.

mod common;

use common::{gpreempt, Tree, GPU};
use serde_json::{json, Value};
use snapbox::str;

/// A queue as the driver keeps it, and its indices in its owner's memory.
struct Made {
    pid: u32,
    id: u32,
    change: Value,
    write: u64,
    read: u64,
}

fn address(queue: &Made, write: bool) -> u64 {
    0x7f00_0000_0000
        + u64::from(queue.pid) * 0x10_0000
        + u64::from(queue.id) * 0x1000
        + if write { 0x38 } else { 0x80 }
}

fn made(pid: u32, id: u32, write: u64, read: u64, change: Value) -> Made {
    Made {
        pid,
        id,
        change,
        write,
        read,
    }
}

fn driver(tree: &Tree, queues: &[Made]) {
    let mut list = Vec::new();
    for queue in queues {
        let mut state = json!({
            "pid": queue.pid, "gpu_id": GPU, "queue_id": queue.id, "format": 1, "priority": 7, "percent": 100,
            "doorbell": queue.pid * 100 + queue.id, "ring_address": 4096, "ring_bytes": 65536,
            "rptr_address": address(queue, false), "wptr_address": address(queue, true), "mqd_address": 4096,
            "active": true, "evicted": false, "suspended": false, "being_destroyed": false, "evictions": 0,
        });
        for (key, value) in queue.change.as_object().into_iter().flatten() {
            state[key] = value.clone();
        }
        list.push(state);
        for (write, index) in [(true, queue.write), (false, queue.read)] {
            let path = format!("/proc/{}/mem#{:x}", queue.pid, address(queue, write));
            tree.file(&path, &index.to_string());
        }
    }
    let states = json!({ "known": { "queues": list, "torn": 0 } });
    tree.file("/sys/class/kfd/kfd#queues", &states.to_string());
}

/// Two jobs, one of them in a container, and a process without queues.
fn machine(name: &str) -> Tree {
    let tree = Tree::with_gpu(name);
    tree.queue(212, "kfd-load", 0, 0, 65536);
    tree.queue(212, "kfd-load", 1, 0, 65536);
    tree.queue(212, "kfd-load", 2, 1, 65536);
    tree.queue(3158, "VLLM::Worker_TP", 0, 0, 65536);
    tree.file("/sys/class/kfd/kfd/proc/400/pasid", "32770");
    tree.file("/proc/400/comm", "rocm-smi\n");
    tree.file(
        "/proc/3158/status",
        "Uid:\t1000\t1000\t1000\t1000\nNSpid:\t3158\t7\n",
    );
    let id = "4c01db0b339c4c7e8d6ce59f7b1eaf0ad3f2b6ac5ad34a2e8b0b9d4e6a1f0c77";
    tree.file(
        "/proc/3158/cgroup",
        &format!("0::/system.slice/docker-{id}.scope\n"),
    );
    driver(
        &tree,
        &[
            made(212, 0, 21_500, 21_493, json!({})),
            made(212, 1, 4, 4, json!({ "percent": 0, "active": false })),
            made(212, 2, 0, 0, json!({ "format": 0, "priority": 15 })),
            made(
                3158,
                0,
                900,
                644,
                json!({ "active": false, "evicted": true, "evictions": 1 }),
            ),
        ],
    );
    tree
}

#[test]
fn a_table_in_80_columns() {
    machine("queues-80")
        .gpreempt()
        .args(["queues", "--interval", "0"])
        .env("COLUMNS", "80")
        .assert()
        .success()
        .stdout_eq(str![[r#"
GPU 52a1 (gfx942): 4 queues of 2 processes, 24 slots per XCC
PROCESS                              GPU:Q  TYPE    STATE    DEPTH RATE PRIO   %
kfd-load[212]                        52a1:0 compute mapped       7    -    7 100
kfd-load[212]                        52a1:1 compute disabled     0    -    7   0
kfd-load[212]                        52a1:2 sdma    mapped       -    -   15 100
VLLM::Worker_TP[3158] 7@4c01db0b339c 52a1:0 compute evicted    256    -    7 100
without queues: rocm-smi[400]

FINDINGS
info place only GPU 52a1 VLLM::Worker_TP[3158]: 1 queue, none of which can run
     the scheduler still counts it as a process; it goes when its queues are
     destroyed

"#]])
        .stderr_eq(str![[r#"
gpreempt: not known: which queues are mapped; times of wave saves and restores: there is no /sys/kernel/debug/kfd: run as root with debugfs mounted on /sys/kernel/debug

"#]]);
}

#[test]
fn a_pipe_gets_whole_lines() {
    machine("queues-pipe")
        .gpreempt()
        .args([
            "queues",
            "--interval",
            "0",
            "--sort",
            "depth",
            "--state",
            "mapped,evicted",
        ])
        .assert()
        .success()
        .stdout_eq(str![[r#"
GPU 52a1 (gfx942): 4 queues of 2 processes, 24 slots per XCC
PROCESS                              GPU:Q  TYPE    STATE   DEPTH RATE PRIO   %
VLLM::Worker_TP[3158] 7@4c01db0b339c 52a1:0 compute evicted   256    -    7 100 its process is evicted
kfd-load[212]                        52a1:0 compute mapped      7    -    7 100
kfd-load[212]                        52a1:2 sdma    mapped      -    -   15 100
without queues: rocm-smi[400]

FINDINGS
info place only GPU 52a1 VLLM::Worker_TP[3158]: 1 queue, none of which can run
     the scheduler still counts it as a process; it goes when its queues are destroyed

"#]]);
}

#[test]
fn objects_for_programs() {
    machine("queues-json")
        .gpreempt()
        .args([
            "queues",
            "--interval",
            "0",
            "--format",
            "json",
            "--pid",
            "3158",
        ])
        .assert()
        .success()
        .stdout_eq(str![[r#"
{"type":"queue","data":{"ts_ns":0,"pid":3158,"comm":"VLLM::Worker_TP","ns_pid":7,"cgroup":"/system.slice/docker-4c01db0b339c4c7e8d6ce59f7b1eaf0ad3f2b6ac5ad34a2e8b0b9d4e6a1f0c77.scope","container":"4c01db0b339c4c7e8d6ce59f7b1eaf0ad3f2b6ac5ad34a2e8b0b9d4e6a1f0c77","gpu_id":21153,"queue_id":0,"queue_type":"compute","state":"evicted","reason":"its process is evicted","ring_bytes":65536,"format":"aql","priority":7,"percent":100,"doorbell":315800,"mqd_address":"4096","wptr_address":"139641288130616","rptr_address":"139641288130688","write_index":900,"read_index":644,"depth":256,"slots":null,"saves":[],"restores":[]}}
{"type":"finding","data":{"kind":"place_only","severity":"info","gpu_id":21153,"pid":3158,"comm":"VLLM::Worker_TP","queue_id":null,"evidence":"1 queue, none of which can run","advice":"the scheduler still counts it as a process; it goes when its queues are destroyed"}}
{"type":"lack","data":{"what":"which queues are mapped","why":"there is no /sys/kernel/debug/kfd","fix":"run as root with debugfs mounted on /sys/kernel/debug"}}
{"type":"lack","data":{"what":"times of wave saves and restores","why":"there is no /sys/kernel/debug/kfd","fix":"run as root with debugfs mounted on /sys/kernel/debug"}}
{"type":"snapshot","data":{"ts_ns":0,"queues":4,"shown":1,"gpus":[{"gpu_id":21153,"node":1,"gfx":"gfx942","num_xcc":2,"slots_total":24,"slots_used":null,"mapped_compute":null,"mapped_sdma":null,"mapped_processes":null,"oversubscribed":null,"queues":4,"processes":2}],"processes":[{"pid":212,"comm":"kfd-load","queues":3},{"pid":400,"comm":"rocm-smi","queues":0},{"pid":3158,"comm":"VLLM::Worker_TP","ns_pid":7,"uid":1000,"cgroup":"/system.slice/docker-4c01db0b339c4c7e8d6ce59f7b1eaf0ad3f2b6ac5ad34a2e8b0b9d4e6a1f0c77.scope","container":"4c01db0b339c4c7e8d6ce59f7b1eaf0ad3f2b6ac5ad34a2e8b0b9d4e6a1f0c77","queues":1}]}}

"#]])
        .stderr_eq(str![""]);
}

#[test]
fn sysfs_alone_is_something() {
    let tree = machine("queues-user");
    tree.file(
        "/sys/class/kfd/kfd#queues",
        r#"{"unknown":{"why":"no permission to observe the kernel, which takes CAP_BPF and CAP_PERFMON","fix":"run as root, or grant that to the program"}}"#,
    );
    tree.gpreempt()
        .args(["queues", "--hqds"])
        .env("COLUMNS", "80")
        .assert()
        .success()
        .stdout_eq(str![[r#"
GPU 52a1 (gfx942): 4 queues of 2 processes, 24 slots per XCC
PROCESS                             GPU:Q  TYPE    STATE DEPTH RATE PRIO % SLOTS
kfd-load[212]                       52a1:0 compute -         -    -    - - -
kfd-load[212]                       52a1:1 compute -         -    -    - - -
kfd-load[212]                       52a1:2 sdma    -         -    -    - - -
VLLM::Worker_…[3158] 7@4c01db0b339c 52a1:0 compute -         -    -    - - -
without queues: rocm-smi[400]

"#]])
        .stderr_eq(str![[r#"
gpreempt: not known: state, priority, percentage and doorbell of queues: no permission to observe the kernel, which takes CAP_BPF and CAP_PERFMON: run as root, or grant that to the program
gpreempt: not known: which queues are mapped; times of wave saves and restores; hardware slots of queues: there is no /sys/kernel/debug/kfd: run as root with debugfs mounted on /sys/kernel/debug

"#]]);
}

#[test]
fn no_queues_and_no_driver() {
    let tree = Tree::with_gpu("queues-none");
    tree.gpreempt()
        .arg("queues")
        .assert()
        .success()
        .stdout_eq(str![[r#"
GPU 52a1 (gfx942): 0 queues of 0 processes, 24 slots per XCC
no queues

"#]])
        .stderr_eq(str![[r#"
gpreempt: not known: which queues are mapped: there is no /sys/kernel/debug/kfd: run as root with debugfs mounted on /sys/kernel/debug

"#]]);
    Tree::new("queues-no-driver")
        .gpreempt()
        .arg("queues")
        .assert()
        .code(69)
        .stdout_eq(str![""])
        .stderr_eq(str![[r#"
gpreempt: no amdgpu driver is loaded, and none is installed for 6.12.95: install it

"#]]);
}

#[test]
fn what_is_for_recordings_is_refused_live() {
    gpreempt()
        .args(["queues", "--at", "5"])
        .assert()
        .code(2)
        .stderr_eq(str![[r#"
gpreempt: --at is for recordings: gpreempt replay FILE queues --at TIME

"#]]);
}

/// A recording that begins without anything, of events and pictures at these times in us. It ends a second after the last.
fn recorded(name: &str, events: &[Vec<u8>], pictures: &[(u64, &Tree)]) -> std::path::PathBuf {
    use common::T0;
    use gpreempt::recording::{Attached, Snapped, Writer};

    let path = Tree::new(name).path("/recording.gpr");
    let file = std::fs::File::create(&path).expect("a file can be made");
    let mut writer = Writer::new(file, 0).expect("a recording can be written");
    let startup = gpreempt::source::Startup {
        kernel: "6.12.95".to_owned(),
        module: "amdgpu".to_owned(),
        module_version: None,
        offsets: "btf".to_owned(),
        probes: Vec::new(),
        ring_bytes: 4096,
    };
    let attached = Attached {
        ts_ns: T0,
        unix_ns: 0,
        startup,
    };
    writer.attached(&attached).expect("it can be written");
    writer.snapshot(Snapped::at(T0)).expect("it can be written");
    for event in events {
        writer.record(event);
    }
    writer.flush().expect("it can be written");
    let mut end_ns = T0;
    for (at_us, tree) in pictures {
        let ts_ns = T0 + at_us * 1000;
        end_ns = ts_ns + 1_000_000_000;
        writer
            .snapshot(Snapped::at(ts_ns))
            .expect("it can be written");
        let mut dirs = vec![tree.path("/")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).expect("it can be listed") {
                let file = entry.expect("it can be listed").path();
                if file.is_dir() {
                    dirs.push(file);
                    continue;
                }
                let relative = file.strip_prefix(tree.path("/")).expect("it is below");
                let content = std::fs::read(&file).expect("it can be read");
                writer
                    .file(&format!("/{}", relative.display()), &content)
                    .expect("it can be written");
            }
        }
    }
    writer.finish(end_ns).expect("it can be written");
    path
}

/// A recording of a queue that was created 2 s and the machine as it was 5 s after the start.
fn recording(name: &str) -> std::path::PathBuf {
    use common::{created, Head};

    let head = Head {
        at_us: 2_000_000,
        pid: 212,
        ..Head::default()
    };
    let tree = machine(&format!("{name}-tree"));
    recorded(
        name,
        &[created(head, 0, b"kfd-load")],
        &[(5_000_000, &tree)],
    )
}

/// A job whose queues have written and read so many packets.
fn job(name: &str, indices: &[(u64, u64)]) -> Tree {
    let tree = Tree::with_gpu(name);
    let mut queues = Vec::new();
    for (id, (write, read)) in (0..).zip(indices) {
        tree.queue(212, "kfd-load", id, 0, 65536);
        queues.push(made(212, id, *write, *read, json!({})));
    }
    driver(&tree, &queues);
    tree
}

#[test]
fn two_pictures_tell_rates_and_who_is_idle() {
    let first = job("queues-two-first", &[(500, 500), (40, 40), (0, 0)]);
    let last = job("queues-two-last", &[(980, 980), (40, 40), (0, 0)]);
    let path = recorded(
        "queues-two",
        &[],
        &[(1_000_000, &first), (13_000_000, &last)],
    );
    let replay = |args: &[&str]| {
        gpreempt()
            .arg("replay")
            .arg(&path)
            .arg("queues")
            .args(args)
            .env("COLUMNS", "100")
            .assert()
            .success()
    };
    replay(&[]).stdout_eq(str![[r#"
GPU 52a1 (gfx942): 3 queues of 1 process, 24 slots per XCC
PROCESS       GPU:Q  TYPE    STATE  DEPTH  RATE PRIO   % AGE PREEMPTED OFF
kfd-load[212] 52a1:0 compute mapped     0  40/s    7 100   -         0 0ns
kfd-load[212] 52a1:1 compute mapped     0 0.0/s    7 100   -         0 0ns
kfd-load[212] 52a1:2 compute mapped     0 0.0/s    7 100   -         0 0ns

FINDINGS
info idle GPU 52a1 kfd-load[212] queue 1: mapped, and no packet for 12.0s; 40 packets before
     it takes a slot and makes every runlist longer; harmless while there are free slots
info unused GPU 52a1 kfd-load[212] queue 2: no packet was ever written into it in the 12.0s that it
     was seen
     it takes a slot and makes every runlist longer; harmless while there are free slots

"#]]);
    // What filters leave out has no findings, and T is what the user says.
    replay(&["--idle-after", "1m"]).stdout_eq(str![[r#"
GPU 52a1 (gfx942): 3 queues of 1 process, 24 slots per XCC
PROCESS       GPU:Q  TYPE    STATE  DEPTH  RATE PRIO   % AGE PREEMPTED OFF
kfd-load[212] 52a1:0 compute mapped     0  40/s    7 100   -         0 0ns
kfd-load[212] 52a1:1 compute mapped     0 0.0/s    7 100   -         0 0ns
kfd-load[212] 52a1:2 compute mapped     0 0.0/s    7 100   -         0 0ns

FINDINGS
info unused GPU 52a1 kfd-load[212] queue 2: no packet was ever written into it
     it takes a slot and makes every runlist longer; harmless while there are free slots

"#]]);
    replay(&["--sort", "rate", "--state", "held"]).stdout_eq(str![[r#"
GPU 52a1 (gfx942): 3 queues of 1 process, 24 slots per XCC
none of 3 queues is shown

"#]]);
}

#[test]
fn who_oversubscribes_is_told_of_a_recording() {
    use common::{record, Head};
    use gpreempt_common::record::{cause, RunlistMapped};

    let mapped = |at_us, pid, queues, processes, oversubscribed| {
        let head = Head {
            at_us,
            pid,
            cause: cause::CREATE_QUEUE,
            ..Head::default()
        };
        let body = RunlistMapped {
            gpu_id: GPU,
            queues,
            cp_queues: queues,
            processes,
            oversubscribed,
            reserved: 0,
        };
        record(head, body)
    };
    let events = [
        mapped(1_000_000, 212, 24, 1, 0),
        mapped(2_000_000, 300, 25, 2, 1),
    ];
    let tree = job("queues-over-tree", &[(500, 480)]);
    let path = recorded("queues-over", &events, &[(4_000_000, &tree)]);
    gpreempt()
        .arg("replay")
        .arg(&path)
        .args(["queues", "--comm", "nobody"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
GPU 52a1 (gfx942): 1 queue of 1 process, 24 slots per XCC
none of 1 queues is shown

FINDINGS
WARN oversubscribed GPU 52a1 [300]: for 3.00s: 25 compute queues, 2 processes (which rule it broke cannot be told: how many processes fit is in no file); [300] crossed the line (create_queue)
     queues take turns for milliseconds: end or hold what is not needed

"#]]);
}

#[test]
fn a_recording_shows_its_last_picture_and_its_past() {
    let path = recording("queues-recorded");
    gpreempt()
        .arg("replay")
        .arg(&path)
        .arg("queues")
        .env("COLUMNS", "100")
        .assert()
        .success()
        .stdout_eq(str![[r#"
GPU 52a1 (gfx942): 4 queues of 2 processes, 24 slots per XCC
PROCESS                              GPU:Q  TYPE    STATE    DEPTH RATE PRIO   %   AGE PREEMPTED OFF
kfd-load[212]                        52a1:0 compute mapped       7    -    7 100 4.00s         0 0ns
kfd-load[212]                        52a1:1 compute disabled     0    -    7   0     -         -   -
kfd-load[212]                        52a1:2 sdma    mapped       -    -   15 100     -         -   -
VLLM::Worker_TP[3158] 7@4c01db0b339c 52a1:0 compute evicted    256    -    7 100     -         -   -
without queues: rocm-smi[400]

FINDINGS
info place only GPU 52a1 VLLM::Worker_TP[3158]: 1 queue, none of which can run
     the scheduler still counts it as a process; it goes when its queues are destroyed

"#]]);
    // Before the last picture there was nothing.
    gpreempt()
        .arg("replay")
        .arg(&path)
        .args(["queues", "--at", "4"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
no GPU
no queues

"#]]);
}
