// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--export perfetto=PATH` as a user calls it, on scripts of records.

mod common;

use std::path::PathBuf;

use common::{life, Tree};
use gpreempt::sink::perfetto::read::{Slice, Trace};
use snapbox::str;

/// A watch with these arguments, and the trace that it wrote.
fn watch(name: &str, args: &[&str]) -> (PathBuf, Trace) {
    let tree = Tree::with_gpu(name);
    tree.file("/proc/9/comm", "kworker/u8:2\n");
    tree.file("/proc/300/comm", "rocgdb\n");
    let path = tree.path("/out.pftrace");
    let export = format!("perfetto={}", path.display());
    tree.watch(&life())
        .args(["--export", &export])
        .args(args)
        .assert()
        .success();
    let bytes = std::fs::read(&path).expect("it was written");
    (path, Trace::read(&bytes).expect("it is sound"))
}

fn all() -> String {
    life().len().to_string()
}

/// Times in microseconds since the script began; arguments as they were written.
fn line(trace: &Trace, slice: &Slice) -> String {
    let us = |ns: u64| (ns as f64 - common::T0 as f64) / 1000.0;
    let args: Vec<String> = slice
        .args
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let indent = "  ".repeat(slice.depth);
    format!(
        "{}: {indent}{} .. {} {} {}",
        trace.name_of(slice),
        us(slice.begin_ns),
        slice
            .end_ns
            .map_or("...".to_owned(), |end| us(end).to_string()),
        slice.name,
        args.join(" ")
    )
    .trim_end()
    .to_owned()
}

#[test]
fn a_life_as_a_trace() {
    let (_, trace) = watch("perfetto-life", &["--count", &all()]);
    assert!(!trace.is_open());
    let mut slices: Vec<&Slice> = trace.slices.iter().chain(&trace.instants).collect();
    slices.retain(|slice| trace.name_of(slice) != "gpreempt");
    slices.sort_by_key(|slice| (trace.name_of(slice), slice.begin_ns, slice.depth));
    let text: Vec<String> = slices.iter().map(|slice| line(&trace, slice)).collect();
    snapbox::Assert::new()
        .action_env(snapbox::assert::DEFAULT_ACTION_ENV)
        .eq(text.join("\n"), str![[r#"
GPU 52a1 queue 0 (compute): 1200 .. 2000 mapped
GPU 52a1 queue 0 (compute): 2000 .. 2010 unmapped (create_queue) by_comm=kfd-load by_pid=212 cause=create_queue
GPU 52a1 queue 0 (compute): 2010 .. 3000 mapped
GPU 52a1 queue 0 (compute): 3000 .. 3001 unmapped (evict) by_comm=kfd-load by_pid=212 cause=evict
GPU 52a1 queue 0 (compute): 3001 .. 103001 evicted (ttm) reason=ttm
GPU 52a1 queue 0 (compute): 103001 .. 220001 unmapped (evict) by_comm=kfd-load by_pid=212 cause=evict
GPU 52a1 queue 0 (compute): 220001 .. 250001 held by_comm=rocgdb by_pid=300
GPU 52a1 queue 0 (compute): 250001 .. 9400000 unmapped (hold) by_comm=rocgdb by_pid=300 cause=hold
GPU 52a1 queue 1 (compute): 2010 .. 2500 mapped
GPU 52a1 queue 1 (compute): 2500 .. 3001 inactive
GPU 52a1 queue 1 (compute): 3001 .. 103001 evicted (ttm) reason=ttm
GPU 52a1 queue 1 (compute): 103001 .. 220001 inactive
GPU 52a1 queue 1 (compute): 220001 .. 250001 held by_comm=rocgdb by_pid=300
GPU 52a1 queue 1 (compute): 250001 .. 9400010 inactive
driver calls: -40 .. 0 opened /dev/kfd ns_pid=5
driver calls: 1055 .. 1203 create queue doorbell=4096 format=aql gpu_id=52a1 percent=100 priority=7 queue_id=0 queue_type=compute ring_bytes=65536
driver calls: 1860 .. 2020 create queue doorbell=4096 format=aql gpu_id=52a1 percent=100 priority=7 queue_id=1 queue_type=compute ring_bytes=65536
driver calls: 2098 .. 2100 create queue: refused errno=EINVAL status=-22
driver calls: 2410 .. 2500 update queue active=false gpu_id=52a1 percent=0 priority=3 queue_id=1
driver calls: 2921 .. 3001 evict (ttm) by_comm=kworker/u8:2 by_pid=9 depth=1 gpu_id=52a1
driver calls: 102989 .. 103001 restore by_comm=kworker/u8:2 by_pid=9 depth=0 evicted_ns=100000000 gpu_id=52a1
driver calls: 199100 .. 200000 suspend by_comm=rocgdb by_pid=300 count=1 requested=2
driver calls: 209920 .. 210000 resume by_comm=rocgdb by_pid=300 count=1 requested=0
driver calls: 219931 .. 220001 hold (ioctl) by_comm=rocgdb by_pid=300 count=2 gpu_id=52a1 hw_ns=62000 lock_wait_ns=1200
driver calls: 249996 .. 250001 release (lease) by_comm=rocgdb by_pid=300 count=2 gpu_id=52a1 hw_ns=0 lock_wait_ns=800
driver calls: 9399915 .. 9400010 destroy queue gpu_id=52a1 queue_id=1
life: 9400000 .. 9400000 queue torn down gpu_id=52a1 queue_id=0
life: 9400100 .. 9400100 exited
resets: 9300010 .. 9300010 reset begins phase=pre total_ns=0
runlist: 1197 .. 1200 map (create_queue) by_comm=kfd-load by_pid=212 cause=create_queue compute_queues=1 oversubscribed=false processes=1 queues=1
runlist: 1921.9 .. 2000 unmap (create_queue) by_comm=kfd-load by_pid=212 cause=create_queue filter=dynamic
runlist:   1921.9 .. 1925 lock wait
runlist:   1939 .. 2000 fence
runlist: 2006 .. 2010 map (create_queue) by_comm=kfd-load by_pid=212 cause=create_queue compute_queues=2 oversubscribed=false processes=1 queues=2
runlist: 2929.8 .. 3000 unmap (evict) by_comm=kfd-load by_pid=212 cause=evict filter=dynamic
runlist:   2929.8 .. 2930 lock wait
runlist:   2942 .. 3000 fence
runlist: 219932.8 .. 220000 unmap (hold) by_comm=rocgdb by_pid=300 cause=hold filter=dynamic
runlist:   219932.8 .. 219934 lock wait
runlist:   219938 .. 220000 fence
runlist: 300000 .. 9300000 unmap (destroy_queue) by_comm=kfd-load by_pid=212 cause=destroy_queue errno=ETIME filter=dynamic status=-62
runlist:   300000 .. 9300000 fence
"#]]);
}

/// A queue would seem to run on while others' changes took it off.
#[test]
fn filters_do_not_apply() {
    let (_, all_of_it) = watch("perfetto-all", &["--count", &all()]);
    let (_, filtered) = watch(
        "perfetto-filtered",
        &["--count", "1", "--kind", "process_exited", "--pid", "212"],
    );
    let without_watch = |trace: &Trace| -> Vec<Slice> {
        let slices = trace.slices.iter().chain(&trace.instants);
        slices
            .filter(|slice| trace.name_of(slice) != "gpreempt")
            .cloned()
            .collect()
    };
    assert_eq!(without_watch(&all_of_it), without_watch(&filtered));
}

#[test]
fn wall_clock_and_boottime_are_joined() {
    let (_, trace) = watch("perfetto-clocks", &["--count", &all()]);
    let (_, realtime_ns) = trace.clocks.expect("both clocks");
    // After 2020 and before 2100: nanoseconds since 1970, whatever this machine's clock says.
    assert!((1_577_836_800_000_000_000..4_102_444_800_000_000_000).contains(&realtime_ns));
}

#[test]
fn it_cannot_be_written() {
    let tree = Tree::with_gpu("perfetto-nowhere");
    tree.watch(&life())
        .args(["--export", "perfetto=/nonexistent/out"])
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: cannot write /nonexistent/out: No such file or directory (os error 2)

"#]]);
    tree.watch(&life())
        .args(["--count", "2", "--export", "perfetto=/dev/full"])
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
gpreempt: cannot write /dev/full: No space left on device (os error 28)

"#]]);
}
