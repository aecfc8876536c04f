// SPDX-License-Identifier: MIT OR Apache-2.0

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// A tree that stands for `/`, with a driver and GPUs 52a1 and 20993 (0x5201).
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Tree {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("gpreempt-select-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let tree = Self(dir);
        for (node, gpu) in [(1, 0x52a1), (2, 0x5201), (3, 5201)] {
            let node = format!("/sys/class/kfd/kfd/topology/nodes/{node}");
            tree.file(&format!("{node}/gpu_id"), &gpu.to_string());
            tree.file(&format!("{node}/properties"), "num_cp_queues 24\n");
        }
        tree
    }

    fn root(&self) -> Root {
        Root::at(self.0.clone())
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.0.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn process(&self, pid: u32, comm: &str, ns_pids: &str, cgroup: &str) {
        let proc = format!("/proc/{pid}");
        self.file(&format!("{proc}/comm"), &format!("{comm}\n"));
        self.file(
            &format!("{proc}/stat"),
            &format!(
                "{pid} ({comm}) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 {} 20\n",
                pid * 10
            ),
        );
        self.file(
            &format!("{proc}/status"),
            &format!("Name:\t{comm}\nTgid:\t{pid}\nTracerPid:\t0\nNSpid:\t{ns_pids}\n"),
        );
        self.file(&format!("{proc}/cgroup"), &format!("0::{cgroup}\n"));
    }

    fn kfd(&self, pid: u32, comm: &str, cgroup: &str, queues: &[(u32, u32, u32)]) {
        self.process(pid, comm, &pid.to_string(), cgroup);
        let dir = format!("/sys/class/kfd/kfd/proc/{pid}");
        self.file(&format!("{dir}/pasid"), "32770\n");
        fs::create_dir_all(self.0.join(format!("{dir}/queues").trim_start_matches('/'))).unwrap();
        for (id, gpu, kind) in queues {
            self.file(&format!("{dir}/queues/{id}/gpuid"), &gpu.to_string());
            self.file(&format!("{dir}/queues/{id}/type"), &kind.to_string());
            self.file(&format!("{dir}/queues/{id}/size"), "4096");
        }
    }

    /// Two trainers in a cgroup, one of them with SDMA; a server; a process of a container; one that is no KFD process.
    fn busy(name: &str) -> Self {
        let tree = Self::new(name);
        let gpu = 0x52a1;
        tree.kfd(
            100,
            "train-0",
            "/batch.slice/a",
            &[(0, gpu, 0), (1, gpu, 1), (2, 0x5201, 0)],
        );
        tree.kfd(101, "train-1", "/batch.slice/b.scope", &[(0, gpu, 0)]);
        tree.kfd(200, "serve", "/system.slice/serve", &[(0, gpu, 0)]);
        tree.kfd(300, "boxed", "/docker/1", &[]);
        tree.process(300, "boxed", "300\t7", "/docker/1");
        tree.process(400, "bash", "400", "/user.slice");
        tree
    }
}

fn pids(targets: &[Target]) -> Vec<u32> {
    targets.iter().map(|target| target.pid.0).collect()
}

fn select(tree: &Tree, selectors: &[Selector]) -> Result<Vec<Target>, SelectError> {
    resolve(&tree.root(), selectors, Only::default())
}

fn message(result: Result<Vec<Target>, SelectError>) -> String {
    result.unwrap_err().to_string()
}

fn comm(glob: &str) -> Selector {
    Selector::Comm(glob.parse().unwrap())
}

fn cgroup(glob: &str) -> Selector {
    Selector::Cgroup(glob.parse().unwrap())
}

fn queue(text: &str) -> Selector {
    Selector::Queue(text.parse().unwrap())
}

#[test]
fn a_process_is_meant_as_a_whole() {
    let tree = Tree::busy("whole");
    let targets = select(&tree, &[Selector::Pid(Pid(100))]).unwrap();
    let [target] = targets.as_slice() else {
        panic!("{targets:?}")
    };
    assert!(target.whole);
    assert_eq!(target.start_ticks, 1000);
    assert_eq!(target.comm.to_string(), "train-0");
    assert_eq!(target.queues.len(), 3);
    let without_queues = select(&tree, &[Selector::Pid(Pid(300))]).unwrap();
    assert!(without_queues[0].whole && without_queues[0].queues.is_empty());
}

#[test]
fn restrictions_leave_queues_out_but_no_process() {
    let tree = Tree::busy("only");
    let only = Only {
        gpu: Some(GpuId(0x52a1)),
        no_sdma: true,
    };
    let targets = resolve(&tree.root(), &[Selector::Pid(Pid(100))], only).unwrap();
    let left: Vec<u32> = targets[0].queues.iter().map(|q| q.queue_id.0).collect();
    assert_eq!(left, [0]);
    assert!(targets[0].whole);
}

#[test]
fn names_and_cgroups_match_as_patterns_and_add_up() {
    let tree = Tree::busy("globs");
    assert_eq!(
        pids(&select(&tree, &[comm("train-*")]).unwrap()),
        [100, 101]
    );
    assert_eq!(
        pids(&select(&tree, &[cgroup("/batch.slice")]).unwrap()),
        [100, 101]
    );
    assert_eq!(
        pids(&select(&tree, &[cgroup("batch.slice/*.scope")]).unwrap()),
        [101]
    );
    assert_eq!(
        pids(&select(&tree, &[cgroup("/")]).unwrap()),
        [100, 101, 200, 300]
    );
    let both = select(&tree, &[comm("serve"), cgroup("/batch.slice/a")]).unwrap();
    assert_eq!(pids(&both), [100, 200]);
}

#[test]
fn a_queue_of_a_whole_process_adds_nothing() {
    let tree = Tree::busy("union");
    let one = select(&tree, &[queue("100:52a1:1"), queue("100:0x5201:2")]).unwrap();
    assert!(!one[0].whole);
    assert_eq!(one[0].queues.len(), 2);
    for selectors in [
        [queue("100:52a1:1"), Selector::Pid(Pid(100))],
        [Selector::Pid(Pid(100)), queue("100:52a1:1")],
    ] {
        let targets = select(&tree, &selectors).unwrap();
        assert_eq!(targets.len(), 1);
        assert!(targets[0].whole);
        assert_eq!(targets[0].queues.len(), 3);
    }
}

#[test]
fn each_mistake_has_its_own_words() {
    let tree = Tree::busy("mistakes");
    let pid = |pid| message(select(&tree, &[Selector::Pid(Pid(pid))]));
    assert_eq!(
        pid(9999),
        "no process 9999: `gpreempt watch` shows the processes that have queues"
    );
    assert_eq!(
        pid(400),
        "process 400 (bash) is not a KFD process: it has not opened /dev/kfd (or is exiting), so it has no queues to stop"
    );
    assert_eq!(
        pid(7),
        "no KFD process 7 on the host; in a container, 7 is boxed, on the host 300: use the pid of the host (--pid 300)"
    );
    tree.process(7, "init", "7", "/");
    assert_eq!(
        pid(7),
        "process 7 (init) of the host is not a KFD process; in a container, 7 is boxed, on the host 300: use the pid of the \
         host (--pid 300)"
    );
    assert_eq!(
        message(select(&tree, &[queue("100:1234:0")])),
        "no GPU 1234; there are 52a1, 5201, 1451"
    );
    assert_eq!(
        message(select(&tree, &[queue("100:5201:0")])),
        "GPU 5201 is 5201 in hexadecimal or 1451 in decimal: write 0x5201 or 0x1451"
    );
    assert_eq!(
        message(select(&tree, &[queue("100:52a1:9")])),
        "process 100 (train-0) has no queue 9 on GPU 52a1; it has 52a1:0, 52a1:1, 5201:2"
    );
    assert_eq!(
        message(select(&tree, &[comm("\x1b]2J*")])),
        "no KFD process matches --comm '\\x1b]2J*'; there are train-0[100], train-1[101], serve[200], boxed[300]"
    );
    assert!(message(select(&tree, &[cgroup("/nosuch")])).contains("--cgroup '/nosuch'"));
    let only = Only {
        gpu: None,
        no_sdma: true,
    };
    assert_eq!(
        message(resolve(&tree.root(), &[queue("100:52a1:1")], only)),
        "queue 1 of process 100 on GPU 52a1 is left out by --no-sdma: give one or the other"
    );
}

#[test]
fn one_mistake_of_several_selectors_selects_nobody() {
    let tree = Tree::busy("all-or-none");
    assert!(select(&tree, &[Selector::Pid(Pid(100)), Selector::Pid(Pid(9999))]).is_err());
}

#[test]
fn this_program_is_no_target() {
    let tree = Tree::busy("myself");
    let me = std::process::id();
    tree.kfd(me, "gpreempt", "/", &[]);
    assert!(matches!(
        select(&tree, &[Selector::Pid(Pid(me))]),
        Err(SelectError::Myself { .. })
    ));
    assert!(select(&tree, &[comm("gpreempt")]).is_err());
    assert!(!pids(&everybody(&tree.root(), Only::default()).unwrap()).contains(&me));
}

#[test]
fn threads_are_told_from_processes() {
    let tree = Tree::busy("threads");
    tree.process(102, "worker", "102", "/");
    tree.file(
        "/proc/102/status",
        "Name:\tworker\nTgid:\t100\nNSpid:\t102\n",
    );
    assert_eq!(
        message(select(&tree, &[Selector::Pid(Pid(102))])),
        "102 is a thread of process 100: use that pid"
    );
}

#[test]
fn inside_a_pid_namespace_nothing_is_selected() {
    let tree = Tree::busy("namespace");
    let ns = tree.0.join("proc/self/ns");
    fs::create_dir_all(&ns).unwrap();
    std::os::unix::fs::symlink("pid:[4026531836]", ns.join("pid")).unwrap();
    assert!(check_host(&tree.root()).is_ok());
    fs::remove_file(ns.join("pid")).unwrap();
    std::os::unix::fs::symlink("pid:[4026532000]", ns.join("pid")).unwrap();
    let error = message(select(&tree, &[Selector::Pid(Pid(100))]));
    assert!(error.contains("--pid=host"), "{error}");
}

#[test]
fn without_a_driver_that_is_said() {
    let tree = Tree::new("no-driver");
    fs::remove_dir_all(tree.0.join("sys/class")).unwrap();
    tree.file("/proc/sys/kernel/osrelease", "6.12.95\n");
    let error = message(select(&tree, &[Selector::Pid(Pid(1))]));
    assert!(error.starts_with("no amdgpu driver is loaded"), "{error}");
}

#[test]
fn queues_are_named_by_three_parts() {
    let arg: QueueArg = "1234:52a1:3".parse().unwrap();
    assert_eq!((arg.pid, arg.queue_id), (Pid(1234), QueueId(3)));
    assert!(arg.gpu.is(GpuId(0x52a1)));
    for wrong in [
        "",
        ":",
        "::",
        "1",
        "1:2",
        "1:2:",
        "1:2:3:4",
        "0:52a1:0",
        "-1:52a1:0",
        "1:gpu:0",
        "1:52a1:-1",
        "1:52a1:4294967296",
        "4294967296:1:1",
        " 1:1:1",
    ] {
        assert!(wrong.parse::<QueueArg>().is_err(), "{wrong:?}");
    }
}

#[test]
fn cgroups_match_with_all_above_them() {
    let glob = |text: &str| text.parse::<CgroupGlob>().unwrap();
    assert!(glob("/a").matches("/a/b/c"));
    assert!(glob("/a/*").matches("/a/b/c"));
    assert!(!glob("/a/*").matches("/a"));
    assert!(glob("a").matches("/a"), "a leading slash is understood");
    assert!(glob("*/b").matches("/x/b/c"));
    assert!(!glob("/a").matches("/ab"));
    assert!(glob("/").matches("/a/b"));
    assert!(glob("/").matches("/"));
    assert!("".parse::<CgroupGlob>().is_err());
    assert!("/[".parse::<CgroupGlob>().is_err());
}

proptest! {
    #[test]
    fn any_text_is_a_queue_or_refused(text in "\\PC{0,24}") {
        let _ = text.parse::<QueueArg>();
        let _ = pid_arg(&text);
        let _ = text.parse::<GpuArg>();
    }

    #[test]
    fn what_is_written_is_what_is_meant(pid in 1..=i32::MAX as u32, gpu in any::<u32>(), queue in any::<u32>()) {
        let arg: QueueArg = format!("{pid}:0x{gpu:x}:{queue}").parse().unwrap();
        prop_assert_eq!((arg.pid, arg.queue_id), (Pid(pid), QueueId(queue)));
        prop_assert!(arg.gpu.is(GpuId(gpu)));
        let decimal: GpuArg = gpu.to_string().parse().unwrap();
        prop_assert!(decimal.is(GpuId(gpu)));
    }

    #[test]
    fn a_cgroup_pattern_ends_on_any_path(pattern in "[a-z*/.]{1,12}", path in "(/[a-z.]{0,4}){0,6}") {
        if let Ok(glob) = pattern.parse::<CgroupGlob>() {
            let _ = glob.matches(&path);
        }
    }
}
