// SPDX-License-Identifier: MIT OR Apache-2.0
//! Perfetto's own trace processor, asked about a trace that `watch --export perfetto=` wrote from a script. `cargo xtask test` gets
//! it and runs this; by hand: GPREEMPT_PERFETTO_UI names the directory of a built Perfetto UI, whose engine runs in node.
//! `tests/perfetto/query.mjs` talks to it.

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{life, Tree, GPU};
use serde_json::{json, Value};

const UI: &str = "GPREEMPT_PERFETTO_UI";

/// Rows of each query.
fn ask(trace: &Path, queries: &[&str]) -> Vec<Vec<Value>> {
    let ui = std::env::var(UI).unwrap_or_else(|_| panic!("{UI} must name a built Perfetto UI"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/perfetto/query.mjs");
    let queries_path = trace.with_extension("sql");
    std::fs::write(&queries_path, queries.join(";\n")).expect("a file can be written");
    let output = std::process::Command::new("node")
        .arg(script)
        .arg(ui)
        .arg(trace)
        .stdin(std::fs::File::open(queries_path).expect("it was written"))
        .stderr(Stdio::inherit())
        .output()
        .expect("node runs");
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let answers: Vec<Vec<Value>> = text
        .lines()
        .map(|line| {
            let mut answer: Value = serde_json::from_str(line).expect(line);
            match answer["rows"].take() {
                Value::Array(rows) => rows,
                other => panic!("no rows: {other}"),
            }
        })
        .collect();
    assert_eq!(answers.len(), queries.len());
    answers
}

/// The life of the other tests, as a trace.
fn trace(name: &str) -> PathBuf {
    let tree = Tree::with_gpu(name);
    tree.file("/proc/9/comm", "kworker/u8:2\n");
    tree.file("/proc/300/comm", "rocgdb\n");
    let path = tree.path("/out.pftrace");
    let export = format!("perfetto={}", path.display());
    tree.watch(&life())
        .args(["--count", &life().len().to_string(), "--export", &export])
        .assert()
        .success();
    path
}

/// Slices of all tracks, whatever nests in them.
const BY_TRACK: &str = "\
select track.name, slice.name, count(*) from slice join track on slice.track_id = track.id
group by track.name, slice.name order by track.name, slice.name";

const ERRORS: &str = "\
select name, idx, value from stats where severity in ('error', 'data_loss') and value > 0";

#[test]
fn the_trace_processor_finds_no_error() {
    let answers = ask(
        &trace("tp-errors"),
        &[
            ERRORS,
            "select count(*) from slice where dur < 0",
            // Slices of one track and depth that overlap.
            "select count(*) from slice a join slice b on a.track_id = b.track_id and a.depth = b.depth and a.id < b.id
             where a.ts < b.ts + b.dur and b.ts < a.ts + a.dur",
            // Inner slices that reach out of the outer one.
            "select count(*) from slice inner_one join slice outer_one on inner_one.parent_id = outer_one.id
             where inner_one.ts < outer_one.ts or inner_one.ts + inner_one.dur > outer_one.ts + outer_one.dur",
            "select name, value from stats where value > 0 and name glob '*skipped*'",
            "select count(*) > 10 from slice",
        ],
    );
    assert_eq!(answers[0], Vec::<Value>::new());
    for zero in &answers[1..4] {
        assert_eq!(*zero, [json!([0])]);
    }
    assert_eq!(answers[4], Vec::<Value>::new());
    assert_eq!(answers[5], [json!([1])]);
}

/// Protobuf's variable-length number.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push((value & 127) as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The tool that finds no error finds one where there is one: an event by a clock that nothing was said of.
#[test]
fn the_trace_processor_would_find_errors() {
    let path = trace("tp-damaged");
    let mut bytes = std::fs::read(&path).expect("it was written");
    // TracePacket: timestamp, timestamp_clock_id 64, sequence, flags, an instant by its type.
    let packet = [
        vec![0x40],
        varint(common::T0),
        vec![0xd0, 3, 64, 0x50],
        varint(0x6770_7265),
        vec![0x68, 2, 0x5a, 2, 0x48, 3],
    ]
    .concat();
    bytes.extend([0x0a, packet.len() as u8]);
    bytes.extend(packet);
    std::fs::write(&path, bytes).expect("a file can be written");
    let answers = ask(&path, &[ERRORS]);
    assert_eq!(answers[0].len(), 1, "{:?}", answers[0]);
    assert_eq!(answers[0][0][0], "clock_sync_failure");
}

#[test]
fn the_trace_processor_sees_every_slice() {
    let answers = ask(&trace("tp-slices"), &[BY_TRACK]);
    let text: Vec<String> = answers[0].iter().map(Value::to_string).collect();
    snapbox::Assert::new()
        .action_env(snapbox::assert::DEFAULT_ACTION_ENV)
        .eq(
            text.join("\n"),
            snapbox::str![[r#"
["GPU 52a1 queue 0 (compute)","evicted (ttm)",1]
["GPU 52a1 queue 0 (compute)","held",1]
["GPU 52a1 queue 0 (compute)","mapped",2]
["GPU 52a1 queue 0 (compute)","unmapped (create_queue)",1]
["GPU 52a1 queue 0 (compute)","unmapped (evict)",2]
["GPU 52a1 queue 0 (compute)","unmapped (hold)",1]
["GPU 52a1 queue 1 (compute)","evicted (ttm)",1]
["GPU 52a1 queue 1 (compute)","held",1]
["GPU 52a1 queue 1 (compute)","inactive",3]
["GPU 52a1 queue 1 (compute)","mapped",1]
["driver calls","create queue",2]
["driver calls","create queue: refused",1]
["driver calls","destroy queue",1]
["driver calls","evict (ttm)",1]
["driver calls","hold (ioctl)",1]
["driver calls","opened /dev/kfd",1]
["driver calls","release (lease)",1]
["driver calls","restore",1]
["driver calls","resume",1]
["driver calls","suspend",1]
["driver calls","update queue",1]
["gpreempt","end",1]
["gpreempt","start",1]
["life","exited",1]
["life","queue torn down",1]
["resets","reset begins",1]
["runlist","fence",4]
["runlist","lock wait",3]
["runlist","map (create_queue)",2]
["runlist","unmap (create_queue)",1]
["runlist","unmap (destroy_queue)",1]
["runlist","unmap (evict)",1]
["runlist","unmap (hold)",1]
"#]],
        );
}

#[test]
fn the_trace_processor_knows_the_processes_and_tracks() {
    let gpu = format!("GPU {GPU:x} (gfx942)");
    let tree = "select process.pid, process.name, track.name from process_track track join process using (upid)
                where track.name glob 'GPU *' order by track.name";
    let below = format!(
        "select track.name from track join track parent on track.parent_id = parent.id where parent.name = '{gpu}'
         order by track.name"
    );
    let answers = ask(
        &trace("tp-tracks"),
        &[
            tree,
            &below,
            "select name, arg_set_id is not null from slice where name glob 'unmap*' order by ts limit 1",
            "select max(value) from counter join counter_track track on counter.track_id = track.id where track.name = 'queues in runlist'",
            "select count(*) > 0 from flow",
            "select distinct clock_name from clock_snapshot order by 1",
        ],
    );
    assert_eq!(
        answers[0],
        [
            json!([212, "kfd-load", format!("GPU {GPU:x} queue 0 (compute)")]),
            json!([212, "kfd-load", format!("GPU {GPU:x} queue 1 (compute)")]),
        ]
    );
    let names: Vec<&str> = answers[1]
        .iter()
        .filter_map(|row| row[0].as_str())
        .collect();
    assert_eq!(
        names,
        [
            "compute queues in runlist",
            "processes",
            "queues in runlist",
            "resets",
            "runlist"
        ]
    );
    assert_eq!(answers[2], [json!(["unmap (create_queue)", 1])]);
    assert_eq!(answers[3], [json!([2])]);
    assert_eq!(answers[4], [json!([1])]);
    assert_eq!(answers[5], [json!(["BOOTTIME"]), json!(["REALTIME"])]);
}
