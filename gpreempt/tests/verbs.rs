// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments, exit codes and messages of every verb.

mod common;

use common::{gpreempt, life, Tree};
use snapbox::str;

#[test]
fn help() {
    gpreempt()
        .arg("--help")
        .env("COLUMNS", "100")
        .assert()
        .success()
        .stdout_eq(str![[r#"
See and preempt the compute queues of AMD GPUs

Usage: gpreempt [OPTIONS] <COMMAND>

Commands:
  watch    Show what happens to compute queues, as it happens
  top      Show queues, processes and GPUs on a full screen, as they change
  queues   Show every compute queue: whose it is, whether it is mapped, how much work waits
  stat     Show how long operations on queues take and how often they happen
  record   Record what happens to compute queues
  replay   Show a recording as if it happened now
  analyze  Find out how a model uses compute queues, and how it can be preempted
  compare  Compare recordings: how many queues each model uses, and what it does to others
  preempt  Stop queues of other processes for a while
  resume   Restart queues that stay stopped, whoever stopped them
  reserve  Keep compute slots of a GPU free of offline jobs
  run      Start a job that stops its own queues when the daemon says so
  serve    Keep online work fast: a daemon that stops offline queues while online ones need the GPU
  ctl      Talk to the daemon (`gpreempt serve`)
  bench    Measure latencies on this machine
  doctor   Say what works here, what is missing and how to fix it
  help     Print this message or the help of the given subcommand(s)

Options:
      --color <WHEN>  Colour; auto is on a terminal, unless NO_COLOR is set [default: auto]
                      [possible values: auto, always, never]
  -h, --help          Print help
  -V, --version       Print version

Exit codes: 0 ok, 1 failed, 2 usage, 69 no GPU, driver, backend or feature, 77 no permission,
128+n ended by signal n; where a COMMAND was run, its own.

"#]]);
}

#[test]
fn help_of_watch() {
    gpreempt()
        .args(["watch", "--help"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
Show what happens to compute queues, as it happens

Processes, queues, runlists, evictions, suspends and resets of every GPU on the machine, with
durations measured in the kernel. Never opens /dev/kfd. Filters decide what is shown; within one
option any value will do.

Usage: gpreempt watch [OPTIONS]

Options:
      --color <WHEN>
          Colour; auto is on a terminal, unless NO_COLOR is set
          
          [default: auto]
          [possible values: auto, always, never]

      --format <FORMAT>
          How events are written: for people, or one object a line for programs
          
          [default: table]
          [possible values: table, json]

      --duration <DURATION>
          Stop that long after attaching: seconds, or 500ms, 5m, 1h30m

      --wait
          Wait for the driver if it is not loaded

      --count <N>
          Stop after this many events

      --pid <PID>
          Only events of, or caused by, these processes

      --comm <GLOB>
          Only events of, or caused by, processes of this name: *, ? and [...] as in a shell

      --gpu <GPU_ID>
          Only events on these GPUs: gpu_id, hexadecimal as in the table or decimal as in JSON

      --kind <KIND>
          Only events of these types

      --probes <PROBES>
          Probes to attach; minimal is the life of processes and queues

          Possible values:
          - minimal: Life of processes and queues only
          - full:    Runlists, evictions, suspends and resets too
          
          [default: full]

      --ring-bytes <BYTES>
          Bytes of the kernel's ring buffer, a power of two; raise it when records are lost
          
          [default: 1MiB]

      --attach <HOW>
          How probes are attached: auto prefers fentry, which costs less but keeps the module from
          being unloaded
          
          [default: auto]
          [possible values: auto, kprobe]

      --offsets <PROFILE>
          Offsets of kernel structs, for a driver without BTF (made by doctor --extract-offsets)

      --export <json|perfetto=PATH>
          Also write to a file: JSON lines, or a trace for ui.perfetto.dev, which filters do not
          apply to

  -h, --help
          Print help (see a summary with '-h')

Examples:
  gpreempt watch --comm 'python*' --kind runlist_unmapped,process_evicted
  gpreempt watch --export perfetto=trace.pftrace --duration 10s
  gpreempt watch --format json --duration 10s | jq 'select(.type == "runlist_unmapped")'

Types: process_attached process_exited queue_existing queue_created queue_updated
  queue_destroyed queue_rejected runlist_unmapped runlist_mapped process_evicted
  process_restored queues_suspended queues_resumed gpu_reset
  queues_held queues_released (by a patched driver)

"#]]);
}

#[test]
fn help_of_doctor() {
    gpreempt()
        .args(["doctor", "--help"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
Say what works here, what is missing and how to fix it

Attaches nothing and never opens /dev/kfd. Exits 0 if watch can start, 69 if the driver, a GPU or a
kernel feature is missing, 77 if only a permission is.

Usage: gpreempt doctor [OPTIONS]

Options:
      --color <WHEN>
          Colour; auto is on a terminal, unless NO_COLOR is set
          
          [default: auto]
          [possible values: auto, always, never]

      --format <FORMAT>
          How the report is written: for people, or one object a line for programs
          
          [default: table]
          [possible values: table, json]

      --offsets <PROFILE>
          Check this offset profile too

      --extract-offsets <FILE>
          Instead: write the offset profile of a driver module (.ko, .ko.xz, .ko.zst) to stdout

      --vmlinux <FILE>
          BTF of the kernel that the module is for, raw or in a vmlinux
          
          [default: /sys/kernel/btf/vmlinux]

  -h, --help
          Print help (see a summary with '-h')

"#]]);
}

#[test]
fn version() {
    gpreempt()
        .arg("--version")
        .assert()
        .success()
        .stdout_eq(str!["gpreempt [..]\n"]);
}

#[test]
fn wrong_arguments_are_2() {
    gpreempt().assert().code(2);
    gpreempt().arg("wtach").assert().code(2).stderr_eq(str![[r#"
error: unrecognized subcommand 'wtach'

  tip: a similar subcommand exists: 'watch'

Usage: gpreempt [OPTIONS] <COMMAND>

For more information, try '--help'.

"#]]);
    gpreempt()
        .args(["watch", "--nosuch"])
        .assert()
        .code(2)
        .stderr_eq(str![[r#"
error: unexpected argument '--nosuch' found

Usage: gpreempt watch [OPTIONS]

For more information, try '--help'.

"#]]);
    gpreempt()
        .args(["watch", "--duration", "soon"])
        .assert()
        .code(2)
        .stderr_eq(str![[r#"
error: invalid value 'soon' for '--duration <DURATION>': expected number at 0

For more information, try '--help'.

"#]]);
    gpreempt()
        .args(["watch", "--ring-bytes", "3MiB"])
        .assert()
        .code(2)
        .stderr_eq(str![[r#"
error: invalid value '3MiB' for '--ring-bytes <BYTES>': expected a power of two from 4KiB to 256MiB

For more information, try '--help'.

"#]]);
    gpreempt()
        .args(["watch", "--kind", "queue"])
        .assert()
        .code(2);
    gpreempt()
        .args(["watch", "--export", "csv=x"])
        .assert()
        .code(2);
    gpreempt().args(["watch", "--count", "0"]).assert().code(2);
    gpreempt().args(["watch", "--comm", "["]).assert().code(2);
    gpreempt()
        .args(["watch", "--gpu", "first"])
        .assert()
        .code(2);
    gpreempt().args(["watch", "--pid", "-1"]).assert().code(2);
}

#[test]
fn no_driver_is_69() {
    let tree = Tree::new("no-driver");
    tree.gpreempt().arg("watch").assert().code(69).stdout_eq("").stderr_eq(str![[r#"
gpreempt: no amdgpu driver is loaded, and none is installed for 6.12.95: install it, or start with --wait

"#]]);
    tree.file(
        "/lib/modules/6.12.95/modules.dep",
        "kernel/drivers/gpu/drm/amd/amdgpu/amdgpu.ko.xz: kernel/x.ko.xz\n",
    );
    tree.gpreempt().args(["watch", "--format", "json"]).assert().code(69).stdout_eq("").stderr_eq(str![[r#"
gpreempt: the amdgpu driver is installed but not loaded (/lib/modules/6.12.95/kernel/drivers/gpu/drm/amd/amdgpu/amdgpu.ko.xz): `modprobe amdgpu`, or start with --wait

"#]]);
    tree.file("/sys/module/amdgpu/srcversion", "0\n");
    tree.gpreempt().arg("watch").assert().code(69).stderr_eq(str![[r#"
gpreempt: amdgpu is loaded without amdkfd, its compute part: use a kernel with CONFIG_HSA_AMD, or start with --wait

"#]]);
}

#[test]
fn no_permission_is_77() {
    let tree = Tree::with_gpu("no-permission");
    tree.capabilities(0);
    tree.gpreempt().arg("watch").assert().code(77).stdout_eq("").stderr_eq(str![[r#"
gpreempt: no permission to observe the kernel, which takes CAP_BPF and CAP_PERFMON: run as root, or grant that to the program

"#]]);
    tree.capabilities(1 << 39);
    tree.gpreempt().arg("watch").assert().code(77).stderr_eq(str![[r#"
gpreempt: no permission to observe the kernel, which takes CAP_PERFMON: run as root, or grant that to the program

"#]]);
}

#[test]
fn a_missing_script_is_1() {
    Tree::with_gpu("no-script")
        .gpreempt()
        .args(["watch", "--script", "/nonexistent"])
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: cannot read the script /nonexistent: No such file or directory (os error 2)

"#]]);
}

#[test]
fn doctor_without_a_driver() {
    let tree = Tree::new("doctor-none");
    tree.gpreempt()
        .arg("doctor")
        .env("COLUMNS", "80")
        .assert()
        .code(69)
        .stderr_eq("")
        .stdout_eq(str![[r#"
ok   kernel        Linux 6.12.95
FAIL driver        no amdgpu driver is loaded, and none is installed for
                   6.12.95
                   fix: install it
ok   capabilities  CAP_SYS_ADMIN: programs can be attached by fentry, the
                   cheapest way
warn kprobes       this kernel has no kprobe event source: only functions that
                   fentry reaches can be probed
                   fix: use a kernel with CONFIG_KPROBE_EVENTS and
                        CONFIG_BPF_EVENTS
ok   lockdown      this kernel has no lockdown, or securityfs is not mounted
skip kptr_restrict cannot be read
FAIL offsets       no /sys/kernel/btf/vmlinux: this kernel has no BTF
                   fix: use a kernel with CONFIG_DEBUG_INFO_BTF, or give a
                        profile with --offsets
skip probes        not to be told without the driver
skip tracers       tracefs is not mounted or not readable

watch cannot start

"#]]);
}

/// A machine on which everything is as it should be: the symbols of a driver of Linux 6.12.
fn healthy(name: &str) -> Tree {
    let tree = Tree::with_gpu(name);
    tree.file("/sys/module/amdgpu/initstate", "live\n");
    tree.file(
        "/sys/module/amdgpu/parameters/queue_preemption_timeout_ms",
        "9000\n",
    );
    tree.file("/sys/kernel/btf/vmlinux", "");
    tree.file("/sys/kernel/btf/amdgpu", "");
    tree.file("/sys/bus/event_source/devices/kprobe/type", "8\n");
    tree.file(
        "/sys/kernel/security/lockdown",
        "none [integrity] confidentiality\n",
    );
    tree.file("/proc/sys/kernel/kptr_restrict", "1\n");
    tree.file("/sys/kernel/tracing/current_tracer", "nop\n");
    tree.file(
        "/sys/kernel/debug/kfd/rls",
        "Node 1, gpu_id 52a1:\n  No active runlist\n",
    );
    tree.file("/sys/kernel/debug/kfd/mqds", "");
    let names = include_str!("../src/source/testdata/symbols-6.12.txt");
    let symbols: String = names
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_ascii_whitespace().last())
        .chain(["execute_queues_cpsch.constprop.0"])
        .map(|name| format!("0000000000000000 t {name}\t[amdgpu]\n"))
        .collect();
    tree.file("/proc/kallsyms", &symbols);
    tree
}

#[test]
fn doctor_on_a_healthy_machine() {
    healthy("doctor-healthy")
        .gpreempt()
        .arg("doctor")
        .env("COLUMNS", "100")
        .assert()
        .success()
        .stderr_eq("")
        .stdout_eq(str![[r#"
ok   kernel        Linux 6.12.95
ok   driver        amdgpu with amdkfd, version 0123456789ABCDEF
ok   capabilities  CAP_SYS_ADMIN: programs can be attached by fentry, the cheapest way
ok   kprobes       available
ok   lockdown      mode integrity
ok   kptr_restrict 1: no matter, symbols are found by name
ok   offsets       BTF of the driver and of the kernel
ok   probes        30 of 30 functions can be probed
ok   tracers       nobody else traces amdgpu
ok   gpus          52a1 gfx942 at 0000:0a:00.0, 2 XCCs, 24 compute slots per XCC
ok   partitions    every GPU is one node
ok   scheduler     sched_policy 0: hardware scheduler; every change takes all queues of the node
                   off
ok   num_kcq       -1: the driver keeps 8 compute queues, 24 of 32 slots per XCC are left
ok   runlist       no GPU is oversubscribed
ok   cwsr_enable   1: running waves are saved when their queue is taken off
ok   timeout       queue_preemption_timeout_ms 9000: then a queue that does not let go resets the
                   GPU
ok   debugfs       0 queues of 0 processes, 0 compute queues in runlists
info patched       the driver is not patched: preempt uses debug-trap or criu
                   fix: kernel-patch/README.md tells how to patch it: one call for many queues, no
                        ptrace, holds that end with their owner
ok   debug-trap    possible for any process: CAP_SYS_PTRACE
ok   criu          possible for any process: CAP_SYS_PTRACE
ok   observe       preempt sees by events that queues stopped, the runlist in debugfs where there
                   are none

Probes
ok    kfd_procfs_add_queue
ok    kfd_procfs_del_queue
ok    update_queue
ok    pm_send_unmap_queue
ok    amdkfd_fence_wait_timeout
ok    unmap_queues_cpsch
ok    pm_send_runlist
ok    map_queues_cpsch
ok    create_queue_cpsch
ok    destroy_queue_cpsch
ok    process_termination_cpsch
ok    start_cpsch
ok    stop_cpsch
ok    evict_process_queues_cpsch
ok    restore_process_queues_cpsch
ok    kfd_process_evict_queues
ok    kfd_process_restore_queues
ok    suspend_queues
ok    resume_queues
ok    kfd_dbg_trap_disable
n/a   kfd_gpreempt_note: the driver is not patched: there are no holds to be seen, and preempt
        uses debug-trap or criu
n/a   kfd_gpreempt_apply_node: the driver is not patched: there are no holds to be seen, and
        preempt uses debug-trap or criu
ok    kfd_hws_hang
ok    kgd2kfd_pre_reset
ok    kgd2kfd_post_reset
ok    kfd_ioctl_set_debug_trap
ok    kfd_ioctl_criu
ok    kfd_ioctl_update_queue
ok    kfd_ioctl_destroy_queue
ok    kfd_ioctl_create_queue
ok    kfd_process_notifier_release
ok    kfd_create_process

Often looked for, not probed
      execute_queues_cpsch (here as execute_queues_cpsch.constprop.0): unmap_queues_cpsch and
        map_queues_cpsch, the two halves of it; compilers inline it or drop one of its parameters
      allocate_hqd (no symbol here): nothing: it is inlined, and runs only without the hardware
        scheduler (sched_policy 2); else firmware picks the slot
      suspend_single_queue (no symbol here): suspend_queues, which calls it for every queue; it is
        inlined
      resume_single_queue (no symbol here): resume_queues, which calls it for every queue; it is
        inlined

watch can start

"#]]);
}

#[test]
fn doctor_finds_what_is_wrong() {
    let tree = healthy("doctor-ill");
    tree.capabilities(0);
    tree.file("/sys/module/amdgpu/parameters/sched_policy", "2\n");
    tree.file("/sys/module/amdgpu/parameters/num_kcq", "2\n");
    tree.file("/sys/module/amdgpu/parameters/cwsr_enable", "0\n");
    tree.file(
        "/sys/module/amdgpu/parameters/queue_preemption_timeout_ms",
        "100\n",
    );
    tree.file("/sys/kernel/tracing/current_tracer", "function\n");
    tree.file("/sys/kernel/debug/kprobes/enabled", "0\n");
    tree.file("/sys/kernel/debug/kfd/mqds", "Queue ID: 1 (0x1)\n");
    // A second partition of the same device.
    tree.gpu(
        2,
        0x52a2,
        "gfx_target_version 90402\nlocation_id 2561\nnum_cp_queues 30\nnum_xcc 2\n",
    );
    let output = tree
        .gpreempt()
        .args(["doctor", "--format", "json"])
        .output()
        .expect("the program runs");
    assert_eq!(
        output.status.code(),
        Some(77),
        "only a permission keeps watch from starting"
    );
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let checks: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("\"ok\"") && line.contains("\"check\""))
        .collect();
    snapbox::Assert::new().action_env(snapbox::assert::DEFAULT_ACTION_ENV).eq(checks.join("\n"), str![[r#"
{"type":"check","data":{"name":"capabilities","status":"fail","evidence":"CAP_BPF and CAP_PERFMON missing","fix":"run as root, or `setcap cap_bpf,cap_perfmon+ep` on the program","lack":"permission"}}
{"type":"check","data":{"name":"kprobes","status":"warn","evidence":"/sys/kernel/debug/kprobes/enabled is 0: kprobes are attached but never run","fix":"`echo 1 > /sys/kernel/debug/kprobes/enabled`"}}
{"type":"check","data":{"name":"tracers","status":"warn","evidence":"ftrace runs the tracer function","fix":"stop the other tracer, or keep in mind that its cost is part of every duration"}}
{"type":"check","data":{"name":"scheduler","status":"warn","evidence":"sched_policy 2: no hardware scheduler; there is no runlist, so no runlist_* events","fix":"load amdgpu without sched_policy=2"}}
{"type":"check","data":{"name":"cwsr_enable","status":"warn","evidence":"0: running waves cannot be saved; preemption waits for them, and a kernel that outlasts the timeout resets the GPU","fix":"load amdgpu without cwsr_enable=0"}}
{"type":"check","data":{"name":"timeout","status":"warn","evidence":"queue_preemption_timeout_ms 100: then a queue that does not let go resets the GPU; that is short","fix":"set it to 9000: a reset ends every job on every GPU of the machine"}}
{"type":"check","data":{"name":"debugfs","status":"warn","evidence":"/sys/kernel/debug/kfd/mqds is not understood: the file is not empty but no process was found in it; this driver prints another format","fix":"report it with the file: this driver prints another format; `watch` does without"}}
{"type":"check","data":{"name":"patched","status":"info","evidence":"the driver is not patched: preempt uses debug-trap or criu","fix":"kernel-patch/README.md tells how to patch it: one call for many queues, no ptrace, holds that end with their owner"}}
{"type":"check","data":{"name":"debug-trap","status":"warn","evidence":"not possible with sched_policy 2: there is no hardware scheduler","fix":"load amdgpu without sched_policy=2"}}
{"type":"check","data":{"name":"criu","status":"warn","evidence":"not possible: CAP_CHECKPOINT_RESTORE is missing","fix":"run as root, or `setcap cap_checkpoint_restore,cap_sys_ptrace+ep` on the program"}}
"#]]);
    let last = text.lines().last().expect("there are lines");
    snapbox::Assert::new().action_env(snapbox::assert::DEFAULT_ACTION_ENV).eq(
        last,
        str![[r#"{"type":"verdict","data":{"watch":false,"lack":"permission","ok":10,"info":1,"warn":8,"fail":1,"skip":0}}"#]],
    );
}

#[test]
fn doctor_tells_features_from_permissions() {
    let tree = healthy("doctor-lockdown");
    tree.file(
        "/sys/kernel/security/lockdown",
        "none integrity [confidentiality]\n",
    );
    tree.gpreempt().arg("doctor").assert().code(69);
    let tree = healthy("doctor-no-btf");
    std::fs::remove_file(tree.path("/sys/kernel/btf/amdgpu")).expect("it was there");
    tree.gpreempt().arg("doctor").assert().code(69);
    tree.gpreempt()
        .args(["doctor", "--offsets", "/nonexistent"])
        .assert()
        .code(69);
}

#[test]
fn offsets_of_what_is_no_module() {
    gpreempt()
        .args(["doctor", "--extract-offsets", "/nonexistent.ko"])
        .assert()
        .code(1)
        .stdout_eq("")
        .stderr_eq(str![[r#"
gpreempt: reading /nonexistent.ko: No such file or directory (os error 2)

"#]]);
    gpreempt()
        .args(["doctor", "--extract-offsets", "/etc/passwd"])
        .assert()
        .code(1)
        .stdout_eq("");
}

#[test]
fn stdout_that_nobody_reads_is_no_error() {
    use std::process::{Command, Stdio};
    let tree = healthy("doctor-pipe");
    let script = tree.path("/script");
    std::fs::write(&script, life().concat()).expect("a file can be written");
    for args in [
        &["doctor"][..],
        &["doctor", "--format", "json"],
        &["--help"],
        &["watch", "--help"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        drop(reader);
        let status = Command::new(snapbox::cmd::cargo_bin!("gpreempt"))
            .arg("--root")
            .arg(tree.path("/"))
            .args(args)
            .stdout(writer)
            .stderr(Stdio::null())
            .status()
            .expect("the program runs");
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
}
