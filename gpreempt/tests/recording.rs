// SPDX-License-Identifier: MIT OR Apache-2.0
//! `record` and `replay` as a user sees them: what was recorded shows the same without the machine that it was recorded on.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{gpreempt, life, Tree};
use serde_json::Value;
use snapbox::cmd::Command;
use snapbox::str;

fn machine(name: &str) -> Tree {
    let tree = Tree::with_gpu(name);
    tree.file("/proc/9/comm", "kworker/u8:2\n");
    tree.file("/proc/300/comm", "rocgdb\n");
    tree.queue(90, "older", 0, 0, 65536);
    tree
}

/// Records the script of a life on a machine, which is gone afterwards.
fn recorded(name: &str, records: &[Vec<u8>], args: &[&str]) -> PathBuf {
    let tree = machine(name);
    let script = tree.path("/script");
    fs::write(&script, records.concat()).expect("a file can be written");
    let file = tree.path("/../").join(format!("{name}.gpr"));
    let _ = fs::remove_file(&file);
    tree.gpreempt()
        .arg("record")
        .arg(&file)
        .arg("--script")
        .arg(script)
        .args(["--duration", "100ms"])
        .args(args)
        .assert()
        .success();
    for dir in ["/proc", "/sys"] {
        tree.remove(dir);
    }
    file
}

fn replay(file: &PathBuf) -> Command {
    gpreempt().arg("replay").arg(file)
}

fn json(stdout: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stdout).expect("JSON is UTF-8");
    let parse = |line| serde_json::from_str(line).expect("a line is JSON");
    text.lines().map(parse).collect()
}

#[test]
fn a_recording_shows_what_watch_showed() {
    let tree = machine("replay-live");
    let live = tree
        .watch(&life())
        .args(["--format", "json", "--duration", "100ms"])
        .output()
        .expect("it runs");
    let file = recorded("replay-same", &life(), &[]);
    let replayed = replay(&file)
        .args(["watch", "--format", "json"])
        .output()
        .expect("it runs");
    assert!(replayed.status.success());
    let (mut live, mut replayed) = (json(&live.stdout), json(&replayed.stdout));
    // The wall clock, and why it ended, are of each run.
    for lines in [&mut live, &mut replayed] {
        lines[0]["data"]["unix_ns"] = Value::Null;
        let last = lines.last_mut().expect("there is a summary");
        last["data"]["end"] = Value::Null;
    }
    assert_eq!(live, replayed);
}

#[test]
fn names_and_queues_of_the_machine_are_in_the_recording() {
    let file = recorded("replay-names", &life(), &[]);
    replay(&file)
        .args([
            "watch",
            "--kind",
            "queue_existing,process_evicted,queues_held",
        ])
        .assert()
        .success()
        .stdout_eq(str![[r#"
1 GPU 52a1 (gfx942), 32 of 32 probes, 0 lost
     TIME EVENT   GPU:Q     TOOK PROCESS                  DETAILS
 0.000000 exists  52a1:0         older[90]                compute ring 64KiB
 0.003001 evict   52a1      80µs kfd-load[212]            ttm by kworker/u8:2[9]
 0.220001 hold    52a1      70µs kfd-load[212]            2 queues by rocgdb[300] fence 62µs lock 1.2µs

"#]])
        .stderr_eq(str![[r#"
gpreempt: 3 events in 9.40s, 19 more left out by filters, 0 lost
  queue_existing 1, process_evicted 1, queues_held 1

"#]]);
}

#[test]
fn a_duration_is_one_of_the_recording() {
    let file = recorded("replay-duration", &life(), &[]);
    let output = replay(&file)
        .args(["watch", "--format", "json", "--duration", "150ms"])
        .output()
        .expect("it runs");
    let lines = json(&output.stdout);
    let last = &lines[lines.len() - 2];
    assert_eq!(last["type"], "process_restored", "{last}");
}

#[test]
fn a_file_is_not_overwritten_unasked() {
    let file = recorded("replay-again", &life(), &[]);
    let before = fs::read(&file).expect("it was recorded");
    let tree = machine("replay-again-2");
    fs::write(tree.path("/script"), life().concat()).expect("a file can be written");
    let again = |args: &[&str]| {
        tree.gpreempt()
            .arg("record")
            .arg(&file)
            .arg("--script")
            .arg(tree.path("/script"))
            .args(["--duration", "100ms"])
            .args(args)
            .assert()
    };
    again(&[]).code(1).stderr_eq(str![[r#"
gpreempt: [..]/replay-again.gpr exists; --force overwrites it: File exists (os error 17)

"#]]);
    assert_eq!(fs::read(&file).expect("it is there"), before);
    again(&["--force"]).success();
}

#[test]
fn files_that_cannot_be_played_say_why() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let foreign = dir.join("foreign.gpr");
    fs::write(&foreign, "#!/bin/sh\n").expect("a file can be written");
    replay(&foreign)
        .arg("watch")
        .assert()
        .code(1)
        .stdout_eq(str![[""]])
        .stderr_eq(str![[r#"
gpreempt: [..]/foreign.gpr is no recording of gpreempt ([..]); `gpreempt record` makes one

"#]]);
    replay(&dir.join("absent.gpr"))
        .arg("watch")
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: cannot read [..]/absent.gpr: No such file or directory (os error 2)

"#]]);
}

#[test]
fn what_is_cut_off_is_shown_as_far_as_it_goes() {
    let file = recorded("replay-cut", &life(), &[]);
    let bytes = fs::read(&file).expect("it was recorded");
    // The end of the recording and the last picture are short: what is cut off is in them.
    fs::write(&file, &bytes[..bytes.len() - 40]).expect("a file can be written");
    replay(&file)
        .args(["watch", "--kind", "queue_created"])
        .assert()
        .code(1)
        .stdout_eq(str![[r#"
1 GPU 52a1 (gfx942), 32 of 32 probes, 0 lost
     TIME EVENT   GPU:Q     TOOK PROCESS                  DETAILS
 0.001203 create  52a1:0   148µs kfd-load[212]            compute aql 64KiB prio 7 doorbell 0x1000
 0.002020 create  52a1:1   160µs kfd-load[212]            compute aql 64KiB prio 7 doorbell 0x1000

"#]])
        .stderr_eq(str![[r#"
gpreempt: the recording is cut off after 21 records ([..])

"#]]);
}

#[test]
fn a_command_is_recorded_while_it_runs() {
    let tree = machine("record-command");
    fs::write(tree.path("/script"), life().concat()).expect("a file can be written");
    let file = tree.path("/a.gpr");
    let record = |command: &[&str]| {
        tree.gpreempt()
            .args(["record", "--force"])
            .arg(&file)
            .arg("--script")
            .arg(tree.path("/script"))
            .arg("--")
            .args(command)
            .assert()
    };
    record(&["sh", "-c", "echo out; exit 7"])
        .code(7)
        .stdout_eq(str![[r#"
out

"#]]);
    let output = replay(&file)
        .args(["watch", "--format", "json"])
        .output()
        .expect("it runs");
    assert!(json(&output.stdout).len() > 10);
    record(&["/nonexistent/command"])
        .code(127)
        .stderr_eq(str![[r#"
gpreempt: cannot run /nonexistent/command: No such file or directory (os error 2)

"#]]);
}

#[test]
fn other_tools_can_look_into_it() {
    let file = recorded("replay-tar", &life(), &[]);
    let decoder =
        zstd::Decoder::new(fs::File::open(&file).expect("it is there")).expect("it is zstd");
    let mut archive = tar::Archive::new(decoder);
    let names: Vec<String> = archive
        .entries()
        .expect("it is tar")
        .map(|entry| {
            entry
                .expect("an entry")
                .path()
                .expect("a name")
                .display()
                .to_string()
        })
        .collect();
    assert_eq!(names[0], "gpreempt.json");
    assert!(
        names.contains(&"tree/proc/300/comm".to_owned()),
        "{names:?}"
    );
    assert_eq!(names.last().map(String::as_str), Some("end.json"));
}

#[test]
fn nothing_happened_is_a_recording_too() {
    let file = recorded("replay-nothing", &[], &[]);
    replay(&file)
        .arg("watch")
        .assert()
        .success()
        .stdout_eq(str![[r#"
1 GPU 52a1 (gfx942), 32 of 32 probes, 0 lost
     TIME EVENT   GPU:Q     TOOK PROCESS                  DETAILS
 0.000000 exists  52a1:0         older[90]                compute ring 64KiB

"#]])
        .stderr_eq(str![[r#"
gpreempt: 1 event in [..], 0 lost
  queue_existing 1

"#]]);
}
