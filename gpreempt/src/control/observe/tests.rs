// SPDX-License-Identifier: MIT OR Apache-2.0
use std::fmt::Write as _;
use std::path::PathBuf;

use super::events::{ours, proves};
use super::*;
use crate::control::TargetQueue;
use crate::event::{Cause, Comm, Event, Happening, QueueType, UnmapFilter};

const GPU: GpuId = GpuId(0x52a1);
const US: Pid = Pid(300);
const TARGET: Pid = Pid(7);
const SHORT: Duration = Duration::from_millis(5);

/// A machine with one GPU, whose process 7 has compute queues of these ids; `listed` of them are in the runlist.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str, gfx: u32) -> Self {
        let dir =
            std::env::temp_dir().join(format!("gpreempt-observe-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let machine = Self(dir);
        let node = "/sys/class/kfd/kfd/topology/nodes/1";
        machine.file(&format!("{node}/gpu_id"), &GPU.0.to_string());
        machine.file(
            &format!("{node}/properties"),
            &format!("gfx_target_version {gfx}\n"),
        );
        machine
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.root().path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn root(&self) -> Root {
        Root::at(self.0.clone())
    }

    fn queues(&self, queues: u32, listed: u32) {
        let mut mqds = format!("Process {TARGET} PASID 0x8001:\n");
        let mut rls = format!("Node 1, gpu_id {GPU}:\n");
        for queue in 0..queues {
            let dir = format!("/sys/class/kfd/kfd/proc/{TARGET}/queues/{queue}");
            for (file, value) in [("size", 65536), ("type", 0), ("gpuid", GPU.0)] {
                self.file(&format!("{dir}/{file}"), &value.to_string());
            }
            let mut image = vec![0_u32; 512];
            image[128] = 0x1000 * (queue + 1);
            image[143] = (0x40 + queue) << 2;
            let _ = writeln!(mqds, "  Compute queue on device {GPU}");
            dump(&mut mqds, "    ", &image);
        }
        let packets: Vec<u32> = (0..listed)
            .flat_map(|queue| {
                [
                    0xc005_a200,
                    0x10,
                    (0x40 + queue) << 2,
                    0x1000 * (queue + 1),
                    0,
                    0,
                    0,
                ]
            })
            .collect();
        if packets.is_empty() {
            rls.push_str("  No active runlist\n");
        }
        dump(&mut rls, "  ", &packets);
        self.file("/sys/kernel/debug/kfd/mqds", &mqds);
        self.file("/sys/kernel/debug/kfd/rls", &rls);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn dump(out: &mut String, prefix: &str, words: &[u32]) {
    for (line, words) in words.chunks(8).enumerate() {
        let words: Vec<String> = words.iter().map(|word| format!("{word:08x}")).collect();
        let _ = writeln!(out, "{prefix}{:08x}: {}", line * 32, words.join(" "));
    }
}

fn target(queues: &[u32], whole: bool) -> Target {
    Target {
        pid: TARGET,
        start_ticks: 1,
        comm: Comm::from_procfs(b"job\n"),
        queues: queues
            .iter()
            .map(|id| TargetQueue {
                gpu_id: GPU,
                queue_id: QueueId(*id),
                queue_type: QueueType::Compute,
            })
            .collect(),
        whole,
    }
}

fn observer(machine: &Machine) -> Observer {
    let (observer, why) = Observer::open(&machine.root(), Want::Auto);
    assert_eq!(observer.how(), How::Runlist, "{why}");
    assert!(why.contains("no events"), "{why}");
    observer
}

#[test]
fn the_runlist_tells_stopped_from_running() {
    let machine = Machine::new("runlist", 90402);
    machine.queues(3, 3);
    let mut observer = observer(&machine);
    observer.begin();
    let whole = [target(&[0, 1, 2], true)];
    let seen = observer.confirm(Action::Stopped, &whole, SHORT);
    assert!(!seen.confirmed && seen.why.is_none(), "{seen:?}");
    assert_eq!(seen.missing.len(), 3);
    assert_eq!(seen.missing[0], (TARGET, Some((GPU, QueueId(0)))));
    assert_eq!((seen.lock_wait_ns, seen.hw_ns), (None, None));
    machine.queues(3, 0);
    let seen = observer.confirm(Action::Stopped, &whole, SHORT);
    assert!(seen.confirmed && seen.how == How::Runlist, "{seen:?}");
    observer.begin();
    assert!(!observer.confirm(Action::Running, &whole, SHORT).confirmed);
    machine.queues(3, 2);
    assert!(
        !observer.confirm(Action::Running, &whole, SHORT).confirmed,
        "one is missing"
    );
    machine.queues(3, 3);
    assert!(observer.confirm(Action::Running, &whole, SHORT).confirmed);
}

#[test]
fn single_queues_are_counted() {
    let machine = Machine::new("single", 90402);
    machine.queues(3, 2);
    let mut observer = observer(&machine);
    let two = [target(&[0, 1], false)];
    assert!(
        observer
            .confirm(Action::Stopped, &[target(&[2], false)], SHORT)
            .confirmed
    );
    assert!(!observer.confirm(Action::Stopped, &two, SHORT).confirmed);
    assert!(observer.confirm(Action::Running, &two, SHORT).confirmed);
}

#[test]
fn what_did_not_run_before_is_not_expected_back() {
    let machine = Machine::new("before", 90402);
    machine.queues(3, 1);
    let mut observer = observer(&machine);
    let whole = [target(&[0, 1, 2], true)];
    observer.begin();
    machine.queues(3, 0);
    assert!(observer.confirm(Action::Stopped, &whole, SHORT).confirmed);
    observer.begin();
    assert!(!observer.confirm(Action::Running, &whole, SHORT).confirmed);
    machine.queues(3, 1);
    assert!(observer.confirm(Action::Running, &whole, SHORT).confirmed);
}

#[test]
fn a_process_that_ended_is_neither_running_nor_missing() {
    let machine = Machine::new("ended", 90402);
    machine.queues(0, 0);
    let mut observer = observer(&machine);
    let whole = [target(&[0], true)];
    assert!(observer.confirm(Action::Stopped, &whole, SHORT).confirmed);
    assert!(observer.confirm(Action::Running, &whole, SHORT).confirmed);
}

#[test]
fn whose_the_queues_are_does_not_matter_where_none_runs() {
    let machine = Machine::new("idle", 90402);
    machine.queues(2, 0);
    let mut observer = observer(&machine);
    machine.file("/sys/kernel/debug/kfd/mqds", "not to be read\n");
    let whole = [target(&[0, 1], true)];
    let seen = observer.confirm(Action::Stopped, &whole, SHORT);
    assert!(seen.confirmed && seen.how == How::Runlist, "{seen:?}");
    let seen = observer.confirm(Action::Running, &whole, SHORT);
    assert_eq!(seen.how, How::Driver, "{seen:?}");
}

#[test]
fn an_observer_may_go_to_another_thread() {
    fn send<T: Send>() {}
    send::<Observer>();
}

#[test]
fn a_dump_of_another_format_is_no_evidence() {
    let machine = Machine::new("format", 90402);
    machine.queues(1, 1);
    let mut observer = observer(&machine);
    machine.file("/sys/kernel/debug/kfd/rls", "a new way to say it\n");
    let seen = observer.confirm(Action::Stopped, &[target(&[0], true)], SHORT);
    assert_eq!(seen.how, How::Driver);
    assert!(seen.why.unwrap().contains("another format"));
}

#[test]
fn gpus_without_runlist_have_the_drivers_answer() {
    let machine = Machine::new("mes", 110000);
    machine.queues(1, 0);
    let mut mes = observer(&machine);
    let seen = mes.confirm(Action::Running, &[target(&[0], true)], SHORT);
    assert!(seen.confirmed && seen.how == How::Driver, "{seen:?}");
    let machine = Machine::new("no-hws", 90402);
    machine.queues(1, 0);
    machine.file("/sys/module/amdgpu/parameters/sched_policy", "2\n");
    let mut no_hws = observer(&machine);
    let seen = no_hws.confirm(Action::Running, &[target(&[0], true)], SHORT);
    assert!(seen.confirmed && seen.how == How::Driver, "{seen:?}");
}

#[test]
fn without_debugfs_the_driver_has_to_be_believed() {
    let machine = Machine::new("driver", 90402);
    let (mut observer, why) = Observer::open(&machine.root(), Want::Auto);
    assert_eq!(observer.how(), How::Driver);
    assert!(
        why.contains("no events") && why.contains("rls is not there"),
        "{why}"
    );
    let seen = observer.confirm(Action::Stopped, &[target(&[0], true)], SHORT);
    assert!(seen.confirmed && seen.how == How::Driver);
    machine.queues(1, 1);
    let (observer, why) = Observer::open(&machine.root(), Want::Driver);
    assert_eq!(
        (observer.how(), why.contains("as asked")),
        (How::Driver, true)
    );
}

fn runlist(cause: Cause, pid: Pid, actor: Pid, mapped: bool, status: i32) -> Happening {
    let event = match mapped {
        true => Event::RunlistMapped {
            gpu_id: GPU,
            queues: 1,
            cp_queues: 1,
            processes: 1,
            oversubscribed: false,
        },
        false => Event::RunlistUnmapped {
            gpu_id: GPU,
            filter: UnmapFilter::Dynamic,
            lock_wait_ns: 5,
            fence_ns: 50,
        },
    };
    Happening {
        ts_ns: 1,
        total_ns: 60,
        cause,
        status,
        pid: Some(pid),
        actor_pid: actor,
        actor_tid: actor.0,
        event,
    }
}

/// Whether such a change is taken for evidence of a process on the GPU.
fn proof(happening: &Happening, action: Action, pid: Pid) -> bool {
    ours(happening, US).is_some_and(|call| proves(&call, action, pid, GPU, US))
}

#[test]
fn a_hold_of_ours_is_evidence_whichever_thread_carried_it_out() {
    let worker = Pid(0);
    let held = runlist(Cause::Hold, US, worker, false, 0);
    assert!(proof(&held, Action::Stopped, TARGET));
    assert!(
        proof(&held, Action::Stopped, Pid(8)),
        "one call for all targets"
    );
    assert!(!proof(&held, Action::Running, TARGET));
    let released = runlist(Cause::Release, US, worker, true, 0);
    assert!(proof(&released, Action::Running, TARGET));
    let of_another = runlist(Cause::Hold, Pid(301), worker, false, 0);
    assert!(!proof(&of_another, Action::Stopped, TARGET));
    let failed = runlist(Cause::Hold, US, US, false, -62);
    assert!(!proof(&failed, Action::Stopped, TARGET));
}

#[test]
fn the_stock_drivers_means_are_evidence_for_their_process_only() {
    for cause in [Cause::Suspend, Cause::Evict] {
        let stopped = runlist(cause, TARGET, US, false, 0);
        assert!(proof(&stopped, Action::Stopped, TARGET));
        assert!(!proof(&stopped, Action::Stopped, Pid(8)));
        let by_another = runlist(cause, TARGET, Pid(301), false, 0);
        assert!(!proof(&by_another, Action::Stopped, TARGET));
    }
    for cause in [Cause::Resume, Cause::Restore] {
        assert!(proof(
            &runlist(cause, TARGET, US, true, 0),
            Action::Running,
            TARGET
        ));
        let unmap_on_the_way = runlist(cause, TARGET, US, false, 0);
        assert!(!proof(&unmap_on_the_way, Action::Running, TARGET));
    }
    // What we do with queues of our own is no preemption.
    assert_eq!(
        ours(&runlist(Cause::CreateQueue, US, US, false, 0), US),
        None
    );
}

#[test]
fn times_are_those_of_the_slowest_node() {
    let call = |gpu, kind, lock_wait_ns| Call {
        ts_ns: 1,
        kind,
        gpu_id: GpuId(gpu),
        cause: Cause::Hold,
        pid: Some(US),
        lock_wait_ns,
        hw_ns: 1,
        total_ns: 9,
        status: 0,
    };
    let calls = [
        call(1, CallKind::Unmapped, 10),
        call(2, CallKind::Unmapped, 7),
        call(2, CallKind::Unmapped, 8),
        call(1, CallKind::Mapped, 100),
    ];
    assert_eq!(longest(&calls, |call| call.lock_wait_ns), Some(15));
    assert_eq!(longest(&[], |call| call.lock_wait_ns), None);
}
