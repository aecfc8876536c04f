// SPDX-License-Identifier: MIT OR Apache-2.0
//! `watch` as a user sees it, on scripts of records: no root, no GPU, no kernel module.

mod common;

use std::fs;
use std::io::Read as _;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{comm, created, life, record, Head, Tree};
use gpreempt_common::record as rec;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::Value;
use snapbox::str;

fn machine(name: &str) -> Tree {
    let tree = Tree::with_gpu(name);
    tree.file("/proc/9/comm", "kworker/u8:2\n");
    tree.file("/proc/300/comm", "rocgdb\n");
    tree
}

fn all() -> String {
    life().len().to_string()
}

/// JSON lines, without what differs from run to run and with the script's first time as 0.
fn lines(stdout: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stdout).expect("JSON is UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

fn types(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["type"].as_str().expect("every line has a type"))
        .collect()
}

#[test]
fn a_life_in_80_columns() {
    machine("life-80")
        .watch(&life())
        .env("COLUMNS", "80")
        .args(["--count", &all()])
        .assert()
        .success()
        .stdout_eq(str![[r#"
1 GPU 52a1 (gfx942), 32 of 32 probes, 0 lost
     TIME EVENT   GPU:Q     TOOK PROCESS         DETAILS
 0.000000 attach                 kfd-load[212]   pid 5 in its namespace
 0.001200 map     52a1     3.0µs kfd-load[212]   create: 1 queue, 1 process
 0.001203 create  52a1:0   148µs kfd-load[212]   compute aql 64KiB prio 7
 0.002000 unmap   52a1      75µs kfd-load[212]   create: fence 61µs lock 3.1µs
 0.002010 map     52a1     4.0µs kfd-load[212]   create: 2 queues, 1 process
 0.002020 create  52a1:1   160µs kfd-load[212]   compute aql 64KiB prio 7
 0.002100 reject           2.0µs kfd-load[212]   create: EINVAL
 0.002500 update  52a1:1    90µs kfd-load[212]   prio 3 0% not active
 0.003000 unmap   52a1      70µs kfd-load[212]   evict: fence 58µs
 0.003001 evict   52a1      80µs kfd-load[212]   ttm
 0.103001 restore 52a1      12µs kfd-load[212]   after 100ms (ttm)
 0.200000 suspend          900µs kfd-load[212]   1 of 2 queues by rocgdb[300]
 0.210000 resume            80µs kfd-load[212]   1 queue by rocgdb[300]
 0.220000 unmap   52a1      66µs rocgdb[300]     hold: fence 62µs lock 1.2µs
 0.220001 hold    52a1      70µs kfd-load[212]   2 queues by rocgdb[300]
 0.250001 release 52a1     5.0µs kfd-load[212]   2 queues after 30.0ms
                                                 lease over
 9.300000 unmap   52a1     9.00s kfd-load[212]   destroy: ETIME fence 9.00s
 9.300010 reset   52a1                           begins: every process evicted
 9.400000 destroy 52a1:0         kfd-load[212]   after 9.40s by exit
 9.400010 destroy 52a1:1    95µs kfd-load[212]   after 9.40s
 9.400100 exit                   kfd-load[212]   after 9.40s

"#]])
        .stderr_eq(str![[r#"
gpreempt: 21 events in 9.40s, 0 lost
  process_attached 1, process_exited 1, queue_created 2, queue_updated 1
  queue_destroyed 2, queue_rejected 1, runlist_unmapped 4, runlist_mapped 2
  process_evicted 1, process_restored 1, queues_suspended 1, queues_resumed 1
  gpu_reset 1, queues_held 1, queues_released 1

"#]]);
}

#[test]
fn a_pipe_gets_long_lines_without_colour() {
    machine("life-wide")
        .watch(&life())
        .args([
            "--count",
            "6",
            "--kind",
            "process_evicted,process_restored,queues_suspended,queue_created",
        ])
        .args(["--duration", "100ms"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
1 GPU 52a1 (gfx942), 32 of 32 probes, 0 lost
     TIME EVENT   GPU:Q     TOOK PROCESS                  DETAILS
 0.001203 create  52a1:0   148µs kfd-load[212]            compute aql 64KiB prio 7 doorbell 0x1000
 0.002020 create  52a1:1   160µs kfd-load[212]            compute aql 64KiB prio 7 doorbell 0x1000
 0.003001 evict   52a1      80µs kfd-load[212]            ttm by kworker/u8:2[9]
 0.103001 restore 52a1      12µs kfd-load[212]            after 100ms (ttm) by kworker/u8:2[9]
 0.200000 suspend          900µs kfd-load[212]            1 of 2 queues by rocgdb[300]

"#]])
        .stderr_eq(str![[r#"
gpreempt: 5 events in 9.40s, 16 more left out by filters, 0 lost
  queue_created 2, process_evicted 1, process_restored 1, queues_suspended 1

"#]]);
}

#[test]
fn colours_are_few() {
    machine("life-colour")
        .watch(&life())
        .args(["--count", "2", "--color", "always", "--kind", "process_evicted,gpu_reset"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
1 GPU 52a1 (gfx942), 32 of 32 probes, 0 lost
[1m     TIME EVENT   GPU:Q     TOOK PROCESS                  DETAILS[0m
[2m 0.003001[0m [33mevict[0m   52a1      80µs kfd-load[212]            ttm by kworker/u8:2[9]
[2m 9.300010[0m [1m[31mreset[0m   52a1                                    [1m[31mbegins: every process evicted[0m

"#]]);
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let tree = machine("narrow");
    for columns in [60, 80, 100, 132, 200] {
        let output = tree
            .watch(&life())
            .env("COLUMNS", columns.to_string())
            .args(["--count", &all()])
            .output();
        let output = output.expect("the program runs");
        for line in std::str::from_utf8(&output.stdout)
            .expect("the table is UTF-8")
            .lines()
        {
            assert!(line.chars().count() <= columns.max(72), "{columns}: {line}");
        }
    }
}

#[test]
fn json_begins_with_startup_and_ends_with_summary() {
    let output = machine("json")
        .watch(&life())
        .args(["--format", "json", "--count", &all()])
        .output();
    let output = output.expect("the program runs");
    assert!(output.status.success());
    assert!(
        output.stderr.is_empty(),
        "words only where something is wrong"
    );
    let lines = lines(&output.stdout);
    assert_eq!(lines.len(), life().len() + 2);
    assert_eq!(types(&lines)[0], "startup");
    assert_eq!(types(&lines)[lines.len() - 1], "summary");
    let startup = &lines[0]["data"];
    assert_eq!(startup["kernel"], "6.12.95");
    assert_eq!(startup["module_version"], "0123456789ABCDEF");
    assert_eq!(startup["gpus"][0]["gfx"], "gfx942");
    assert_eq!(startup["gpus"][0]["gpu_id"], common::GPU);
    assert_eq!(
        startup["probes_attached"],
        startup["probes"].as_array().expect("a list").len()
    );
    let summary = &lines[lines.len() - 1]["data"];
    assert_eq!(summary["end"], "count");
    assert_eq!(summary["shown"], life().len());
    assert_eq!(summary["events"]["queue_created"], 2);
    assert_eq!(summary["lost"], 0);
}

#[test]
fn json_of_every_event() {
    let output = machine("json-events")
        .watch(&life())
        .args(["--format", "json", "--count", &all()])
        .output();
    let output = output.expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let events: Vec<&str> = text.lines().skip(1).take(life().len()).collect();
    snapbox::Assert::new().action_env(snapbox::assert::DEFAULT_ACTION_ENV).eq(events.join("\n"), str![[r#"
{"type":"process_attached","data":{"ts_ns":1000000000000,"pid":212,"comm":"kfd-load","ns_pid":5,"start_boottime_ns":"999999999995","cgroup_id":"77"}}
{"type":"runlist_mapped","data":{"ts_ns":1000001200000,"gpu_id":21153,"cause":"create_queue","cause_pid":212,"cause_comm":"kfd-load","queues":1,"cp_queues":1,"processes":1,"oversubscribed":false,"total_ns":3000,"status":0}}
{"type":"queue_created","data":{"ts_ns":1000001203000,"pid":212,"comm":"kfd-load","gpu_id":21153,"queue_id":0,"queue_type":"compute","format":"aql","priority":7,"percent":100,"ring_bytes":65536,"doorbell":4096,"evicted":false,"cause":"create_queue","total_ns":148000}}
{"type":"runlist_unmapped","data":{"ts_ns":1000002000000,"gpu_id":21153,"filter":"dynamic","cause":"create_queue","cause_pid":212,"cause_comm":"kfd-load","lock_wait_ns":3100,"fence_ns":61000,"total_ns":75000,"status":0}}
{"type":"runlist_mapped","data":{"ts_ns":1000002010000,"gpu_id":21153,"cause":"create_queue","cause_pid":212,"cause_comm":"kfd-load","queues":2,"cp_queues":2,"processes":1,"oversubscribed":false,"total_ns":4000,"status":0}}
{"type":"queue_created","data":{"ts_ns":1000002020000,"pid":212,"comm":"kfd-load","gpu_id":21153,"queue_id":1,"queue_type":"compute","format":"aql","priority":7,"percent":100,"ring_bytes":65536,"doorbell":4096,"evicted":false,"cause":"create_queue","total_ns":160000}}
{"type":"queue_rejected","data":{"ts_ns":1000002100000,"pid":212,"comm":"kfd-load","op":"create","errno":"EINVAL","status":-22,"total_ns":2000}}
{"type":"queue_updated","data":{"ts_ns":1000002500000,"pid":212,"comm":"kfd-load","gpu_id":21153,"queue_id":1,"created_ns":1000002020000,"percent":0,"priority":3,"active":false,"total_ns":90000}}
{"type":"runlist_unmapped","data":{"ts_ns":1000003000000,"gpu_id":21153,"filter":"dynamic","cause":"evict","cause_pid":212,"cause_comm":"kfd-load","lock_wait_ns":200,"fence_ns":58000,"total_ns":70000,"status":0}}
{"type":"process_evicted","data":{"ts_ns":1000003001000,"pid":212,"comm":"kfd-load","gpu_id":21153,"reason":"ttm","depth":1,"actor_pid":9,"actor_comm":"kworker/u8:2","total_ns":80000,"status":0}}
{"type":"process_restored","data":{"ts_ns":1000103001000,"pid":212,"comm":"kfd-load","gpu_id":21153,"reason":"ttm","depth":0,"evicted_ns":100000000,"actor_pid":9,"actor_comm":"kworker/u8:2","total_ns":12000,"status":0}}
{"type":"queues_suspended","data":{"ts_ns":1000200000000,"pid":212,"comm":"kfd-load","count":1,"requested":2,"actor_pid":300,"actor_comm":"rocgdb","total_ns":900000,"status":1}}
{"type":"queues_resumed","data":{"ts_ns":1000210000000,"pid":212,"comm":"kfd-load","count":1,"requested":0,"actor_pid":300,"actor_comm":"rocgdb","total_ns":80000,"status":1}}
{"type":"runlist_unmapped","data":{"ts_ns":1000220000000,"gpu_id":21153,"filter":"dynamic","cause":"hold","cause_pid":300,"cause_comm":"rocgdb","lock_wait_ns":1200,"fence_ns":62000,"total_ns":66000,"status":0}}
{"type":"queues_held","data":{"ts_ns":1000220001000,"pid":212,"comm":"kfd-load","gpu_id":21153,"count":2,"owner_pid":300,"owner_comm":"rocgdb","cause":"ioctl","status":0,"lock_wait_ns":1200,"hw_ns":62000,"total_ns":70000}}
{"type":"queues_released","data":{"ts_ns":1000250001000,"pid":212,"comm":"kfd-load","gpu_id":21153,"count":2,"owner_pid":300,"owner_comm":"rocgdb","cause":"lease","held_ns":30000000,"status":0,"lock_wait_ns":800,"hw_ns":0,"total_ns":5000}}
{"type":"runlist_unmapped","data":{"ts_ns":1009300000000,"gpu_id":21153,"filter":"dynamic","cause":"destroy_queue","cause_pid":212,"cause_comm":"kfd-load","lock_wait_ns":0,"fence_ns":9000000000,"total_ns":9000000000,"status":-62}}
{"type":"gpu_reset","data":{"ts_ns":1009300010000,"gpu_id":21153,"phase":"pre","total_ns":0}}
{"type":"queue_destroyed","data":{"ts_ns":1009400000000,"pid":212,"comm":"kfd-load","gpu_id":21153,"queue_id":0,"created_ns":1000001203000,"lifetime_ns":9398797000,"cause":"process_exit","total_ns":0}}
{"type":"queue_destroyed","data":{"ts_ns":1009400010000,"pid":212,"comm":"kfd-load","gpu_id":21153,"queue_id":1,"created_ns":1000002020000,"lifetime_ns":9397990000,"cause":"destroy_queue","total_ns":95000}}
{"type":"process_exited","data":{"ts_ns":1009400100000,"pid":212,"comm":"kfd-load","ns_pid":5,"start_boottime_ns":"999999999995","lifetime_ns":9400100000}}
"#]]);
}

#[test]
fn every_line_satisfies_the_schema_by_its_required_fields() {
    let schema: Value =
        serde_json::from_str(&gpreempt::sink::schema::schema()).expect("the schema is JSON");
    let output = machine("schema")
        .watch(&life())
        .args(["--format", "json", "--count", &all()])
        .output();
    for line in lines(&output.expect("the program runs").stdout) {
        let variants = schema["oneOf"].as_array().expect("one per record");
        let variant = variants
            .iter()
            .find(|v| v["properties"]["type"]["const"] == line["type"])
            .unwrap_or_else(|| panic!("{} is in the schema", line["type"]));
        let name = variant["properties"]["data"]["$ref"]
            .as_str()
            .expect("a reference");
        let definition = &schema["$defs"][name.trim_start_matches("#/$defs/")];
        for field in definition["required"].as_array().into_iter().flatten() {
            assert!(
                !line["data"][field.as_str().expect("a name")].is_null()
                    || field == "pid"
                    || field == "comm",
                "{line}: {field}"
            );
        }
        for field in line["data"].as_object().expect("an object").keys() {
            assert!(
                definition["properties"][field].is_object(),
                "{} has {field} beyond the schema",
                line["type"]
            );
        }
    }
}

#[test]
fn queues_that_exist_are_told_first_and_once() {
    let tree = machine("existing");
    tree.queue(212, "kfd-load", 0, 0, 65536);
    tree.queue(500, "python3", 3, 1, 1 << 20);
    // Its creation is among the records, so it was not there before.
    tree.queue(500, "python3", 4, 0, 65536);
    let records = [
        record(
            Head {
                pid: 500,
                at_us: 5,
                ..Head::default()
            },
            rec::QueueDestroyed {
                gpu_id: common::GPU,
                queue_id: 3,
            },
        ),
        created(
            Head {
                pid: 500,
                at_us: 10,
                took_us: 9,
                cause: rec::cause::CREATE_QUEUE,
                ..Head::default()
            },
            4,
            b"python3",
        ),
    ];
    tree.watch(&records)
        .args(["--count", "4"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
1 GPU 52a1 (gfx942), 32 of 32 probes, 0 lost
     TIME EVENT   GPU:Q     TOOK PROCESS                  DETAILS
 0.000000 exists  52a1:0         kfd-load[212]            compute ring 64KiB
 0.000000 exists  52a1:3         python3[500]             sdma ring 1MiB
 0.000000 destroy 52a1:3         python3[500]
 0.000005 create  52a1:4   9.0µs python3[500]             compute aql 64KiB prio 7 doorbell 0x1000

"#]]);
}

#[test]
fn filters_decide_what_is_shown_and_counted() {
    let tree = machine("filters");
    let run = |args: &[&str]| {
        let output = tree
            .watch(&life())
            .args(["--format", "json", "--duration", "50ms"])
            .args(args)
            .output();
        lines(&output.expect("the program runs").stdout)
    };
    let shown = run(&["--kind", "queue_created", "--kind", "queue_destroyed"]);
    assert_eq!(
        types(&shown),
        [
            &["startup"][..],
            &["queue_created"; 2],
            &["queue_destroyed"; 2],
            &["summary"]
        ]
        .concat()
    );
    let summary = &shown[5]["data"];
    assert_eq!(
        (&summary["shown"], &summary["filtered"]),
        (&4.into(), &(life().len() - 4).into())
    );
    assert_eq!(
        types(&run(&["--pid", "300"])),
        [
            "startup",
            "queues_suspended",
            "queues_resumed",
            "runlist_unmapped",
            "queues_held",
            "queues_released",
            "gpu_reset",
            "summary"
        ]
    );
    assert_eq!(run(&["--comm", "roc*"]).len(), 8);
    assert_eq!(
        types(&run(&["--comm", "nobody"])),
        ["startup", "gpu_reset", "summary"]
    );
    assert_eq!(types(&run(&["--gpu", "beef"])), ["startup", "summary"]);
    assert_eq!(
        run(&["--gpu", "52a1"]).len(),
        run(&["--gpu", "21153"]).len()
    );
}

#[test]
fn hostile_names_stay_text() {
    let records = [
        created(
            Head {
                pid: 7,
                ..Head::default()
            },
            0,
            b"\x1b[31mred\x07\n",
        ),
        created(
            Head {
                pid: 8,
                ..Head::default()
            },
            0,
            "\u{202e}evil".as_bytes(),
        ),
        created(
            Head {
                pid: 9,
                ..Head::default()
            },
            0,
            b"\xff\xfe\"}{",
        ),
    ];
    let tree = machine("hostile");
    let table = tree
        .watch(&records)
        .args(["--count", "3"])
        .output()
        .expect("the program runs")
        .stdout;
    let table = String::from_utf8(table).expect("the table is UTF-8");
    for shown in [
        "\\x1b[31mred\\x07\\n[7] ",
        "\\u{202e}evil[8] ",
        "\\xff\\xfe\"}{[9] ",
    ] {
        assert!(table.contains(shown), "{shown} in {table}");
    }
    assert!(
        !table.chars().any(|c| c.is_control() && c != '\n'),
        "{table}"
    );
    let output = tree
        .watch(&records)
        .args(["--format", "json", "--count", "3"])
        .output()
        .expect("the program runs");
    let lines = lines(&output.stdout);
    assert_eq!(lines[1]["data"]["comm"], "\\x1b[31mred\\x07\\n");
    assert_eq!(lines[2]["data"]["comm"], "\\u{202e}evil");
    assert_eq!(lines[3]["data"]["comm"], "\\xff\\xfe\"}{");
}

#[test]
fn what_cannot_be_decoded_is_counted() {
    let mut unknown = record(
        Head::default(),
        rec::GpuReset {
            gpu_id: 1,
            phase: 1,
        },
    );
    unknown[18] = 200;
    let records = [
        unknown,
        created(
            Head {
                pid: 7,
                at_us: 1,
                ..Head::default()
            },
            0,
            b"job",
        ),
    ];
    let output = machine("undecoded")
        .watch(&records)
        .args(["--format", "json", "--count", "1"])
        .output();
    let lines = lines(&output.expect("the program runs").stdout);
    assert_eq!(types(&lines), ["startup", "queue_created", "summary"]);
    assert_eq!(lines[2]["data"]["undecoded"], 1);
}

#[test]
fn an_export_gets_what_is_shown() {
    let tree = machine("export");
    let path = tree.path("/out.jsonl");
    let export = format!("json={}", path.display());
    let args = [
        "--count",
        "2",
        "--kind",
        "runlist_unmapped",
        "--export",
        &export,
    ];
    tree.watch(&life()).args(args).assert().success();
    let written = lines(&fs::read(&path).expect("it was written"));
    assert_eq!(
        types(&written),
        ["startup", "runlist_unmapped", "runlist_unmapped", "summary"]
    );
    tree.watch(&life())
        .args(["--export", "json=/nonexistent/out"])
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: cannot write /nonexistent/out: No such file or directory (os error 2)

"#]]);
}

#[test]
fn a_full_disk_is_an_error() {
    let args = ["--count", "2", "--export", "json=/dev/full"];
    machine("full")
        .watch(&life())
        .args(args)
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: cannot write /dev/full: No space left on device (os error 28)

"#]]);
}

/// A child that does not outlive its test, also when that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

/// Starts a watch that goes on until something ends it.
fn start(tree: &Tree, args: &[&str]) -> Running {
    let script = tree.path("/script");
    fs::write(&script, life().concat()).expect("a file can be written");
    let child = Command::new(snapbox::cmd::cargo_bin!("gpreempt"))
        .arg("--root")
        .arg(tree.path("/"))
        .args(["watch", "--script"])
        .arg(script)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Running(child.expect("the program starts"))
}

/// Waits for the end, but not for ever.
fn ended(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status.code();
        }
        sleep(Duration::from_millis(10));
    }
    panic!("the program did not end");
}

fn read_until(child: &mut Child, what: &str) -> String {
    let stdout = child.stdout.as_mut().expect("it is piped");
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(what) {
        let n = stdout.read(&mut buffer).expect("a pipe can be read");
        assert!(n > 0, "the output ends before {what}: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    text
}

#[test]
fn signals_end_with_a_summary_and_their_number() {
    for (signal, name, code) in [
        (Signal::SIGINT, "sigint", 130),
        (Signal::SIGTERM, "sigterm", 143),
        (Signal::SIGHUP, "sighup", 129),
    ] {
        let mut child = start(&machine(name), &["--format", "json"]);
        let mut text = read_until(&mut child, "process_exited");
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("a child can be signalled");
        assert_eq!(ended(&mut child), Some(code));
        child
            .stdout
            .take()
            .expect("it is piped")
            .read_to_string(&mut text)
            .expect("a pipe can be read");
        let last = text.lines().last().expect("there are lines");
        let last: Value = serde_json::from_str(last).expect("JSON");
        assert_eq!(
            (&last["type"], &last["data"]["end"]),
            (&"summary".into(), &name.into())
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for format in ["json", "table"] {
        let mut child = start(&machine(&format!("pipe-{format}")), &["--format", format]);
        // Closed before anything is written, and while the watch has nothing more to write: it must notice both.
        drop(child.stdout.take());
        assert_eq!(ended(&mut child), Some(0), "{format}");
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .expect("it is piped")
            .read_to_string(&mut stderr)
            .expect("a pipe can be read");
        assert_eq!(stderr, "", "{format}");
    }
    let mut child = start(&machine("pipe-later"), &["--format", "json"]);
    read_until(&mut child, "process_exited");
    drop(child.stdout.take());
    assert_eq!(
        ended(&mut child),
        Some(0),
        "the script is over, so only the look at the pipe can tell"
    );
}

#[test]
fn the_driver_may_go_and_come_back() {
    let tree = machine("reload");
    let mut child = start(&tree, &["--format", "json"]);
    read_until(&mut child, "process_exited");
    let class = tree.path("/sys/class/kfd");
    let away = tree.path("/sys/class/away");
    fs::rename(&class, &away).expect("it can be renamed");
    let text = read_until(&mut child, "\"gone\"");
    assert!(text.contains("{\"type\":\"driver\""), "{text}");
    fs::rename(&away, &class).expect("it can be renamed back");
    let text = read_until(&mut child, "process_exited");
    let lines = lines(text.trim_end().as_bytes());
    assert_eq!(
        (&lines[0]["type"], &lines[0]["data"]["state"]),
        (&"driver".into(), &"loaded".into())
    );
    assert_eq!(lines[0]["data"]["gpus"][0]["gpu_id"], common::GPU);
    assert_eq!(types(&lines)[1], "process_attached", "events go on");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)
        .expect("a child can be signalled");
    assert_eq!(ended(&mut child), Some(130));
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .expect("it is piped")
        .read_to_string(&mut stderr)
        .expect("a pipe can be read");
    snapbox::Assert::new()
        .action_env(snapbox::assert::DEFAULT_ACTION_ENV)
        .eq(
            stderr,
            str![[r#"
gpreempt: the driver was unloaded: no events until it is loaded again; still watching
gpreempt: the driver is loaded: attached again

"#]],
        );
}

#[test]
fn it_waits_for_the_driver_if_told_to() {
    let tree = machine("wait");
    let class = tree.path("/sys/class/kfd");
    let away = tree.path("/sys/class/away");
    fs::rename(&class, &away).expect("it can be renamed");
    let mut child = start(&tree, &["--format", "json", "--wait", "--count", "1"]);
    sleep(Duration::from_millis(300));
    assert!(
        child
            .try_wait()
            .expect("a child can be waited for")
            .is_none(),
        "it waits"
    );
    fs::rename(&away, &class).expect("it can be renamed back");
    assert_eq!(ended(&mut child), Some(0));
    let text = read_until(&mut child, "summary");
    assert_eq!(
        types(&lines(text.trim_end().as_bytes())),
        ["startup", "process_attached", "summary"]
    );
}

#[test]
fn a_wait_can_be_interrupted() {
    let tree = machine("wait-int");
    tree.remove("/sys/class/kfd");
    let mut child = start(&tree, &["--wait"]);
    let mut stderr = child.stderr.take().expect("it is piped");
    let mut buffer = [0; 256];
    let n = stderr.read(&mut buffer).expect("a pipe can be read");
    assert!(String::from_utf8_lossy(&buffer[..n]).ends_with("; waiting for it\n"));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)
        .expect("a child can be signalled");
    assert_eq!(ended(&mut child), Some(130));
}

#[test]
fn a_name_that_fills_its_buffer_has_no_end() {
    let records = [created(
        Head {
            pid: 7,
            ..Head::default()
        },
        0,
        &comm(b"VLLM::Worker_TP0"),
    )];
    let output = machine("full-comm")
        .watch(&records)
        .args(["--format", "json", "--count", "1"])
        .output();
    assert_eq!(
        lines(&output.expect("the program runs").stdout)[1]["data"]["comm"],
        "VLLM::Worker_TP0"
    );
}
