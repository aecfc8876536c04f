// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast records become events, and events state and JSON, on one core: `cargo bench -p gpreempt`.

use std::io;

use divan::counter::ItemsCount;
use divan::{black_box, Bencher};
use gpreempt::event::decode;
use gpreempt::model::Model;
use gpreempt::sink::json::Json;
use gpreempt::sink::record::Record;
use gpreempt::sink::table::{Layout, Table};
use gpreempt::sink::Sink;
use gpreempt::stat::collect::Collect;
use gpreempt_common::record::{self as rec, Body, Header};
use zerocopy::IntoBytes;

fn main() {
    divan::main();
}

fn record<B: Body>(ts_ns: u64, pid: u32, body: B) -> Vec<u8> {
    let len = size_of::<Header>() + size_of::<B>();
    let header = Header {
        ts_ns,
        total_ns: 75_000,
        len: u16::try_from(len).expect("records are small"),
        kind: B::KIND,
        cause: rec::cause::CREATE_QUEUE,
        reserved: 0,
        status: 0,
        pid,
        actor_pid: pid,
        actor_tid: pid,
    };
    [header.as_bytes(), body.as_bytes()].concat()
}

/// What a churn of queues looks like: 64 processes, each with a queue that comes and goes, and the runlist traffic it makes.
fn records() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for n in 0..1000u64 {
        let pid = 1000 + u32::try_from(n % 64).expect("small");
        let gpu_id = 0x52a1;
        let queue_id = u32::try_from(n / 64 % 8).expect("small");
        let mut comm = [0; 16];
        comm[..8].copy_from_slice(b"kfd-load");
        let unmap = rec::RunlistUnmapped {
            lock_wait_ns: 800,
            fence_ns: 61_000,
            gpu_id,
            filter: 2,
        };
        let map = rec::RunlistMapped {
            gpu_id,
            queues: 3,
            cp_queues: 2,
            processes: 1,
            oversubscribed: 0,
            reserved: 0,
        };
        let created = rec::QueueCreated {
            ring_bytes: 65536,
            gpu_id,
            queue_id,
            queue_type: 0,
            format: 1,
            priority: 7,
            percent: 100,
            doorbell: 4096,
            evicted: 0,
            comm,
        };
        out.push(record(n * 10, pid, unmap));
        out.push(record(n * 10 + 1, pid, map));
        out.push(record(n * 10 + 2, pid, created));
        out.push(record(
            n * 10 + 3,
            pid,
            rec::QueueDestroyed { gpu_id, queue_id },
        ));
    }
    out
}

/// 64 processes with 8 queues each on one node, for a whole machine at work: runlists, updates to 0 % and back, evictions.
fn standing() -> Vec<Vec<u8>> {
    let gpu_id = 0x52a1;
    let mut out = Vec::new();
    for n in 0..512u32 {
        let created = rec::QueueCreated {
            ring_bytes: 65536,
            gpu_id,
            queue_id: n / 64,
            queue_type: 0,
            format: 1,
            priority: 7,
            percent: 100,
            doorbell: 4096,
            evicted: 0,
            comm: [0; 16],
        };
        out.push(record(u64::from(n), 1000 + n % 64, created));
    }
    out
}

fn work() -> Vec<Vec<u8>> {
    let gpu_id = 0x52a1;
    let mut out = Vec::new();
    for n in 0..1000u64 {
        let ts_ns = 1_000_000 + n * 100_000;
        let pid = 1000 + u32::try_from(n % 64).expect("small");
        let unmap = rec::RunlistUnmapped {
            lock_wait_ns: 800,
            fence_ns: 61_000,
            gpu_id,
            filter: 2,
        };
        let map = rec::RunlistMapped {
            gpu_id,
            queues: 512,
            cp_queues: 512,
            processes: 64,
            oversubscribed: 1,
            reserved: 0,
        };
        out.push(record(ts_ns, pid, unmap));
        out.push(record(ts_ns + 10, pid, map));
        let end_ns = ts_ns + 20;
        match n % 4 {
            0 | 1 => out.push(record(
                end_ns,
                pid,
                rec::QueueUpdated {
                    gpu_id,
                    queue_id: 3,
                    priority: 7,
                    percent: if n % 4 == 0 { 0 } else { 100 },
                    active: 1,
                    reserved: 0,
                },
            )),
            2 => out.push(record(
                end_ns,
                pid,
                rec::ProcessEvicted {
                    gpu_id,
                    reason: 2,
                    depth: 1,
                    reserved: 0,
                },
            )),
            _ => out.push(record(
                end_ns,
                pid - 1,
                rec::ProcessRestored { gpu_id, depth: 0 },
            )),
        }
    }
    out
}

/// With 512 queues: what a change of the runlist costs must not depend on how many queues it concerns.
#[divan::bench]
fn decode_and_model_512_queues(bencher: Bencher) {
    let mut model = Model::default();
    for bytes in standing() {
        if let Ok(happening) = &decode(&bytes) {
            model.apply(happening);
        }
    }
    let records = work();
    bencher
        .counter(ItemsCount::new(records.len()))
        .bench_local(|| {
            for bytes in &records {
                if let Ok(happening) = &decode(black_box(bytes)) {
                    // Lent, as the engine does: it is not to be copied.
                    black_box(&model.apply(happening));
                }
            }
        });
}

#[divan::bench]
fn decode_model_stat(bencher: Bencher) {
    let records = records();
    let mut model = Model::default();
    let mut collect = Collect::new(0, None);
    bencher
        .counter(ItemsCount::new(records.len()))
        .bench_local(|| {
            for bytes in &records {
                if let Ok(happening) = &decode(black_box(bytes)) {
                    let context = model.apply(happening);
                    collect.take(happening, &context);
                }
            }
        });
}

#[divan::bench]
fn decode_only(bencher: Bencher) {
    let records = records();
    bencher
        .counter(ItemsCount::new(records.len()))
        .bench_local(|| {
            for bytes in &records {
                let _ = black_box(decode(black_box(bytes)));
            }
        });
}

#[divan::bench]
fn decode_and_model(bencher: Bencher) {
    let records = records();
    let mut model = Model::default();
    bencher
        .counter(ItemsCount::new(records.len()))
        .bench_local(|| {
            for bytes in &records {
                if let Ok(happening) = &decode(black_box(bytes)) {
                    // Lent, as the engine does: it is not to be copied.
                    black_box(&model.apply(happening));
                }
            }
        });
}

fn to_sink(bencher: Bencher, mut sink: impl Sink) {
    let records = records();
    let mut model = Model::default();
    bencher
        .counter(ItemsCount::new(records.len()))
        .bench_local(|| {
            for bytes in &records {
                if let Ok(happening) = &decode(black_box(bytes)) {
                    let context = model.apply(happening);
                    let _ = sink.record(&Record::of(happening, &context));
                }
            }
        });
}

#[divan::bench]
fn decode_model_json(bencher: Bencher) {
    to_sink(bencher, Json::new(io::sink()));
}

#[divan::bench]
fn decode_model_table(bencher: Bencher) {
    to_sink(
        bencher,
        Table::new(
            io::sink(),
            Layout {
                width: Some(80),
                height: None,
                color: true,
            },
        ),
    );
}
