// SPDX-License-Identifier: MIT OR Apache-2.0
//! `preempt`, `resume` and `reserve` where nothing can be stopped: arguments, selectors, what each mistake is told.

mod common;

use common::{gpreempt, Tree, GPU};
use snapbox::cmd::Command;
use snapbox::str;

/// A driver, a GPU, and processes: 212 with queues 0 (compute) and 1 (SDMA), 300 in a container where it is 7, 400 without GPU.
fn busy(name: &str) -> Tree {
    let tree = Tree::with_gpu(name);
    tree.queue(212, "train\\u{1b}[2J", 0, 0, 65536);
    tree.queue(212, "train\u{1b}[2J", 1, 1, 65536);
    process(&tree, 212, "212");
    tree.queue(300, "boxed", 0, 0, 4096);
    process(&tree, 300, "300\t7");
    tree.file("/proc/400/comm", "bash\n");
    process(&tree, 400, "400");
    tree
}

fn process(tree: &Tree, pid: u32, ns_pids: &str) {
    tree.file(
        &format!("/proc/{pid}/stat"),
        &format!("{pid} (x y) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20\n"),
    );
    tree.file(
        &format!("/proc/{pid}/status"),
        &format!("Name:\tx\nTgid:\t{pid}\nTracerPid:\t0\nNSpid:\t{ns_pids}\n"),
    );
    tree.file(
        &format!("/proc/{pid}/cgroup"),
        &format!("0::/batch.slice/job-{pid}\n"),
    );
}

fn preempt(tree: &Tree, arguments: &[&str]) -> Command {
    tree.gpreempt()
        .arg("preempt")
        .args(["--for", "1"])
        .args(arguments)
}

#[test]
fn help_of_preempt() {
    gpreempt()
        .args(["preempt", "--help"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
Stop queues of other processes for a while

Queues leave the GPU where they are and go on from there: nothing is lost, and the processes do not
notice but for the time. They are restarted when the time is over, when COMMAND ends, by a signal,
and also if gpreempt dies or hangs: what is stopped is a lease that gpreempt must renew. Selectors
are looked up once, at the start.

Every GPU that schedules by HWS (MI200, MI300) takes all its queues off for a moment whenever some
are stopped or restarted, those of other processes too.

Usage: gpreempt preempt [OPTIONS] <SELECTOR>... (--for <DURATION> | -- <COMMAND>...)

Arguments:
  [COMMAND]...
          Restart them when this command ends, and exit with its code

Options:
      --color <WHEN>
          Colour; auto is on a terminal, unless NO_COLOR is set
          
          [default: auto]
          [possible values: auto, always, never]

      --gpu <GPU_ID>
          Only queues on this GPU: gpu_id, hexadecimal as in tables or decimal as in JSON

      --no-sdma
          Leave SDMA queues alone: copies go on

      --for <DURATION>
          Restart them after this time: seconds, or 500ms, 5m, 1h30m

      --backend <BACKEND>
          By which means

          Possible values:
          - auto:       The best of the others that works here
          - patched:    Our ioctls, on a patched driver
          - debug-trap: Suspend as a debugger does (Linux 6.5)
          - criu:       Pause as a checkpoint does (Linux 5.18): whole processes, on every GPU
          
          [default: auto]

      --lease <DURATION>
          How long they stay stopped if gpreempt hangs: 100ms to 1h
          
          [default: 5s]

      --observe <OBSERVE>
          How it is seen that they stopped: auto takes the best that works here, events, runlist or
          driver
          
          [default: auto]

      --dry-run
          Say what would be done, and do nothing

      --format <FORMAT>
          How it is reported: for people, or one object a line for programs
          
          [default: table]
          [possible values: table, json]

  -h, --help
          Print help (see a summary with '-h')

Selectors (several: all that any of them names):
      --pid <PID>
          A process, with the queues that it creates later

      --queue <PID:GPU:QUEUE>
          A queue: process, gpu_id, queue id, as in 1234:52a1:0

      --cgroup <GLOB>
          Every KFD process in a cgroup whose path matches, and in those below it

      --comm <GLOB>
          Every KFD process of this name: *, ? and [...] as in a shell

Examples:
  gpreempt preempt --comm 'python*' --for 500ms
  gpreempt preempt --cgroup /batch.slice --format json -- ./online-request
  gpreempt preempt --queue 1234:52a1:0 --queue 1234:52a1:1 --for 10 --backend debug-trap

What cannot be stopped is listed; the rest is stopped nevertheless, and the exit code is 1. If
nothing
could be stopped, COMMAND does not run. With COMMAND, reports for people go to stderr.
Ctrl-C is for COMMAND to handle; SIGTERM is passed to it, and the queues are restarted at once.

"#]]);
}

#[test]
fn help_of_resume() {
    gpreempt()
        .args(["resume", "--help"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
Restart queues that stay stopped, whoever stopped them

Needed only if something went wrong: what `gpreempt preempt` stops, it restarts. By selector and by
--all this breaks the holds of programs that run, too, on a patched driver. Needs root.

Tried in this order: release by a patched driver; end of a debugger that no longer traces; end of a
checkpoint's pause.

Usage: gpreempt resume [OPTIONS] (<SELECTOR>... | --all | --strays)

Options:
      --color <WHEN>
          Colour; auto is on a terminal, unless NO_COLOR is set
          
          [default: auto]
          [possible values: auto, always, never]

      --all
          Every KFD process

      --strays
          Only what nobody holds any more: left over by a program that was killed

      --format <FORMAT>
          How it is reported: for people, or one object a line for programs
          
          [default: table]
          [possible values: table, json]

  -h, --help
          Print help (see a summary with '-h')

Selectors (several: all that any of them names):
      --pid <PID>
          A process, with the queues that it creates later

      --queue <PID:GPU:QUEUE>
          A queue: process, gpu_id, queue id, as in 1234:52a1:0

      --cgroup <GLOB>
          Every KFD process in a cgroup whose path matches, and in those below it

      --comm <GLOB>
          Every KFD process of this name: *, ? and [...] as in a shell

"#]]);
}

#[test]
fn help_of_reserve() {
    gpreempt()
        .args(["reserve", "--help"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
Keep compute slots of a GPU free of offline jobs

The selected processes are offline: together they get at most the slots that are not reserved. Their
queues beyond that are parked and take turns. Everybody else finds a free slot at once, without time
slicing. It reserves neither compute units nor bandwidth, and needs a patched driver and a GPU that
schedules by HWS (MI200, MI300).

The reservation ends with this program, however that ends. Processes that come to match are added
every second.

Usage: gpreempt reserve [OPTIONS] --gpu <GPU_ID> (--slots <N> | --percent <P>) <SELECTOR>... [--for <DURATION> | -- <COMMAND>...]
       gpreempt reserve [OPTIONS] (--show | --clear) [--gpu <GPU_ID>]

Arguments:
  [COMMAND]...
          End it when this command ends, and exit with its code

Options:
      --color <WHEN>
          Colour; auto is on a terminal, unless NO_COLOR is set
          
          [default: auto]
          [possible values: auto, always, never]

      --gpu <GPU_ID>
          The GPU: gpu_id, hexadecimal as in tables or decimal as in JSON

      --slots <N>
          Slots to keep free

      --percent <P>
          Hundredths of all slots to keep free, rounded up

      --rotate <DURATION>
          How often parked queues take turns: 1ms to 1h
          
          [default: 1s]

      --for <DURATION>
          End it after this time: seconds, or 500ms, 5m, 1h30m

      --show
          Show the slots of the GPU, or of all GPUs

      --clear
          End the reservation of the GPU, or of all GPUs, whoever made it

      --format <FORMAT>
          How it is reported: for people, or one object a line for programs
          
          [default: table]
          [possible values: table, json]

  -h, --help
          Print help (see a summary with '-h')

Selectors (several: all that any of them names):
      --pid <PID>
          A process, with the queues that it creates later

      --queue <PID:GPU:QUEUE>
          A queue: process, gpu_id, queue id, as in 1234:52a1:0

      --cgroup <GLOB>
          Every KFD process in a cgroup whose path matches, and in those below it

      --comm <GLOB>
          Every KFD process of this name: *, ? and [...] as in a shell

Examples:
  gpreempt reserve --gpu 52a1 --slots 4 --cgroup /batch.slice --for 1h
  gpreempt reserve --gpu 52a1 --percent 25 --comm 'train*' -- ./serve
  gpreempt reserve --show

"#]]);
}

#[test]
fn usage() {
    for wrong in [
        &["preempt"][..],
        &["preempt", "--for", "1"],
        &["preempt", "--pid", "1"],
        &["preempt", "--pid", "0", "--for", "1"],
        &["preempt", "--pid", "-1", "--for", "1"],
        &["preempt", "--pid", "99999999999", "--for", "1"],
        &["preempt", "--pid", "1", "--for", "soon"],
        &["preempt", "--pid", "1", "--for", "1", "--", "true"],
        &["preempt", "--pid", "1", "--for", "1", "--lease", "1ms"],
        &["preempt", "--pid", "1", "--for", "1", "--lease", "2h"],
        &["preempt", "--pid", "1", "--for", "1", "--backend", "magic"],
        &["preempt", "--pid", "1", "--for", "1", "--observe", "magic"],
        &["preempt", "--queue", "1:2", "--for", "1"],
        &["preempt", "--queue", "1:x:0", "--for", "1"],
        &["preempt", "--comm", "[", "--for", "1"],
        &["preempt", "--cgroup", "", "--for", "1"],
        &["preempt", "--gpu", "first", "--pid", "1", "--for", "1"],
        &["preempt", "--pid", "1", "true"],
        &["resume"],
        &["resume", "--all", "--strays"],
        &["resume", "--all", "--pid", "1"],
        &["reserve"],
        &["reserve", "--gpu", "52a1"],
        &["reserve", "--gpu", "52a1", "--slots", "2"],
        &["reserve", "--slots", "2", "--pid", "1"],
        &["reserve", "--gpu", "52a1", "--slots", "0", "--pid", "1"],
        &["reserve", "--gpu", "52a1", "--percent", "100", "--pid", "1"],
        &[
            "reserve",
            "--gpu",
            "52a1",
            "--slots",
            "1",
            "--percent",
            "9",
            "--pid",
            "1",
        ],
        &["reserve", "--show", "--clear"],
        &["reserve", "--show", "--pid", "1"],
        &["reserve", "--show", "--for", "1"],
        &["reserve", "--clear", "--", "true"],
    ] {
        let output = gpreempt().args(wrong).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
}

#[test]
fn how_long_must_be_said() {
    gpreempt()
        .args(["preempt", "--pid", "1"])
        .assert()
        .code(2)
        .stderr_eq(str![[r#"
error: the following required arguments were not provided:
  --for <DURATION>

Usage: gpreempt preempt [OPTIONS] <SELECTOR>... (--for <DURATION> | -- <COMMAND>...)

For more information, try '--help'.

"#]]);
}

#[test]
fn no_driver_is_69() {
    let tree = Tree::new("control-no-driver");
    for verb in [
        &["preempt", "--pid", "1", "--for", "1"][..],
        &["preempt", "--comm", "x", "--dry-run"],
        &["resume", "--all"],
        &["resume", "--strays"],
        &["reserve", "--show"],
        &["reserve", "--clear"],
        &["reserve", "--gpu", "1", "--slots", "1", "--pid", "1"],
    ] {
        tree.gpreempt()
            .args(verb)
            .assert()
            .code(69)
            .stdout_eq("")
            .stderr_eq(str![[r#"
gpreempt: no amdgpu driver is loaded, and none is installed for 6.12.95; install it

"#]]);
    }
}

#[test]
fn no_such_process() {
    preempt(&busy("control-nobody"), &["--pid", "9999"])
        .assert()
        .code(1)
        .stdout_eq("")
        .stderr_eq(str![[r#"
gpreempt: no process 9999: `gpreempt watch` shows the processes that have queues

"#]]);
}

#[test]
fn not_a_gpu_process() {
    preempt(&busy("control-not-kfd"), &["--pid", "212", "--pid", "400"])
        .assert()
        .code(1)
        .stdout_eq("")
        .stderr_eq(str![[r#"
gpreempt: process 400 (bash) is not a KFD process: it has not opened /dev/kfd (or is exiting), so it has no queues to stop

"#]]);
}

#[test]
fn a_pid_of_a_container() {
    preempt(&busy("control-container"), &["--pid", "7"])
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: no KFD process 7 on the host; in a container, 7 is boxed, on the host 300: use the pid of the host (--pid 300)

"#]]);
}

#[test]
fn an_unknown_gpu() {
    let tree = busy("control-gpu");
    preempt(&tree, &["--queue", "212:beef:0"])
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: no GPU beef; there is 52a1

"#]]);
    preempt(&tree, &["--pid", "212", "--gpu", "beef"])
        .assert()
        .code(1);
    tree.gpreempt()
        .args(["reserve", "--show", "--gpu", "beef"])
        .assert()
        .code(1);
}

#[test]
fn an_unknown_queue() {
    // The name is the process's own choice.
    preempt(&busy("control-queue"), &["--queue", "212:52a1:9"])
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: process 212 (train/x1b[2J) has no queue 9 on GPU 52a1; it has 52a1:0, 52a1:1

"#]]);
}

#[test]
fn a_queue_that_another_option_leaves_out() {
    preempt(
        &busy("control-left-out"),
        &["--queue", "212:52a1:1", "--no-sdma"],
    )
    .assert()
    .code(2)
    .stderr_eq(str![[r#"
gpreempt: queue 1 of process 212 on GPU 52a1 is left out by --no-sdma: give one or the other

"#]]);
}

#[test]
fn patterns_that_match_nobody() {
    let tree = busy("control-nothing");
    preempt(&tree, &["--comm", "python*"])
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: no KFD process matches --comm 'python*'; there are train/x1b[2J[212], boxed[300]

"#]]);
    preempt(&tree, &["--cgroup", "/batch.slice/job-4*"])
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: no KFD process matches --cgroup '/batch.slice/job-4*'; there are train/x1b[2J[212], boxed[300]

"#]]);
}

#[test]
fn an_unpatched_driver() {
    preempt(&busy("control-unpatched"), &["--pid", "212", "--backend", "patched"])
        .assert()
        .code(69)
        .stdout_eq("")
        .stderr_eq(str![[r#"
gpreempt: the driver is not patched (no /sys/module/amdgpu/parameters/gpreempt_abi); load amdgpu with the patches of kernel-patch/, or use another backend

"#]]);
    busy("control-unpatched-reserve")
        .gpreempt()
        .args(["reserve", "--show"])
        .assert()
        .code(69);
}

#[test]
fn a_driver_with_patches_of_another_version() {
    let tree = busy("control-version");
    tree.file("/sys/module/amdgpu/parameters/gpreempt_abi", "2\n");
    preempt(&tree, &["--cgroup", "/batch.slice", "--backend", "patched"])
        .assert()
        .code(69)
        .stderr_eq(str![[r#"
gpreempt: the driver's patches speak version 2 of the interface, this program version 1; use a program and patches of one release

"#]]);
}

#[test]
fn a_driver_without_device() {
    let tree = busy("control-device");
    tree.file("/sys/module/amdgpu/parameters/gpreempt_abi", "1\n");
    preempt(&tree, &["--pid", "212", "--backend", "patched"])
        .assert()
        .code(69)
        .stderr_eq(str![[r#"
gpreempt: the driver is loaded, but there is no /dev/kfd here; in a container, pass it in (docker run --device=/dev/kfd)

"#]]);
    // Something that is no driver.
    tree.file("/dev/kfd", "");
    preempt(&tree, &["--pid", "212", "--backend", "patched"])
        .assert()
        .code(69)
        .stderr_eq(str![[r#"
gpreempt: the driver says by its parameter gpreempt_abi that it is patched, but refuses AMDKFD_IOC_BATCH_UNMAP_QUEUES (ENOTTY); see whether /dev/kfd belongs to that driver: `gpreempt doctor`

"#]]);
}

#[test]
fn a_command_does_not_run_if_nothing_is_held() {
    let tree = busy("control-command");
    let witness = tree.path("/witness");
    tree.gpreempt()
        .args([
            "preempt",
            "--pid",
            "212",
            "--backend",
            "patched",
            "--",
            "touch",
        ])
        .arg(&witness)
        .assert()
        .code(69);
    assert!(!witness.exists());
}

#[test]
fn reservations_are_of_whole_processes() {
    let tree = busy("control-reserve-queue");
    let gpu = format!("{GPU:x}");
    tree.gpreempt()
        .args([
            "reserve",
            "--gpu",
            &gpu,
            "--slots",
            "2",
            "--queue",
            "212:52a1:0",
        ])
        .assert()
        .code(2)
        .stderr_eq(str![[r#"
gpreempt: a reservation concerns whole processes: use --pid, --comm or --cgroup

"#]]);
}
