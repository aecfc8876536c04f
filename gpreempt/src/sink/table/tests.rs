// SPDX-License-Identifier: MIT OR Apache-2.0
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::event::{Cause, Comm, GpuId, Pid, QueueFormat, QueueId, QueueType, UnmapFilter};
use crate::sink::record::{Lost, QueueCreated, RunlistUnmapped};

#[derive(Clone, Default)]
struct Out(Rc<RefCell<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn shown(layout: Layout, records: &[Record]) -> String {
    let out = Out::default();
    let mut table = Table::new(out.clone(), layout);
    for record in records {
        table.record(record).unwrap();
    }
    table.flush().unwrap();
    let bytes = out.0.borrow().clone();
    String::from_utf8(bytes).unwrap()
}

fn unmap(ts_ns: u64, ns: u64, comm: &[u8], pid: u32) -> Record {
    Record::RunlistUnmapped(RunlistUnmapped {
        ts_ns,
        gpu_id: GpuId(0x52a1),
        filter: UnmapFilter::All,
        cause: Cause::DebugTrap,
        cause_pid: Some(Pid(pid)),
        cause_comm: Some(Comm::from_procfs(comm)),
        lock_wait_ns: ns,
        fence_ns: ns,
        total_ns: ns,
        status: -5,
    })
}

#[test]
fn details_that_do_not_fit_go_on_below() {
    let layout = Layout {
        width: Some(80),
        ..Layout::default()
    };
    assert_eq!(
        shown(
            layout,
            &[unmap(1_500_000, 152_000, b"VLLM::Worker_TP", 3_158_637)]
        ),
        " 0.001500 unmap   52a1     152µs VLLM:…[3158637] debug: EIO fence 152µs\n\
         \u{20}                                                lock 152µs static queues too\n"
    );
}

#[test]
fn the_header_comes_again_and_tells_losses() {
    let layout = Layout {
        width: Some(80),
        height: Some(12),
        color: false,
    };
    let mut records = vec![unmap(0, 1, b"x", 1); 9];
    records.push(Record::Lost(Lost {
        ts_ns: 5,
        count: 2,
        total: 7,
    }));
    records.extend(vec![unmap(0, 1, b"x", 1); 9]);
    let text = shown(layout, &records);
    let lines: Vec<&str> = text.lines().collect();
    let headers: Vec<usize> = (0..lines.len())
        .filter(|at| lines[*at].contains(" probes, ") || lines[*at].ends_with(" lost"))
        .collect();
    assert!(headers.len() >= 2, "{text}");
    assert!(
        headers.windows(2).all(|pair| pair[1] - pair[0] <= 12),
        "one is always on the screen: {text}"
    );
    assert!(
        lines[headers[headers.len() - 1]].ends_with("7 lost"),
        "{text}"
    );
    assert!(text.contains("2 records lost here, 7 in all"), "{text}");
}

#[test]
fn times_before_the_start_are_negative() {
    let text = shown(Layout::default(), &[unmap(0, 1, b"x", 1)]);
    assert!(text.starts_with(" 0.000000"), "{text}");
}

proptest! {
    /// Whatever a process calls itself, lines stay within the terminal and columns stay where they are.
    #[test]
    fn names_do_not_break_the_table(comm in proptest::collection::vec(any::<u8>(), 0..16), pid in any::<u32>(), ns in any::<u64>(), width in 80usize..200) {
        let comm = comm.into_iter().filter(|b| *b != b'\n' && *b != 0).collect::<Vec<_>>();
        let layout = Layout { width: Some(width), ..Layout::default() };
        let created = Record::QueueCreated(QueueCreated {
            ts_ns: 0,
            pid: Some(Pid(pid)),
            comm: Some(Comm::from_procfs(&comm)),
            gpu_id: GpuId(0x52a1),
            queue_id: QueueId(3),
            queue_type: QueueType::Compute,
            format: QueueFormat::Aql,
            priority: 7,
            percent: 100,
            ring_bytes: ns,
            doorbell: pid,
            evicted: true,
            cause: Cause::CreateQueue,
            total_ns: 0,
        });
        let text = shown(layout, &[unmap(0, ns % 10_000_000_000, &comm, pid), created]);
        for line in text.lines() {
            prop_assert!(cell::width(line) <= width, "{line}");
        }
        prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
    }
}
