// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records as they lie in the ring buffer, through the model to what is shown.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use gpreempt::event::{decode, split, time_of};
use gpreempt::model::Model;
use gpreempt::sink::json::Json;
use gpreempt::sink::perfetto::Perfetto;
use gpreempt::sink::record::Record;
use gpreempt::sink::table::{Layout, Table};
use gpreempt::sink::Sink;
use gpreempt::stat::collect::Collect;

use super::screen;

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

pub fn events(bytes: &[u8]) {
    let mut model = Model::default();
    let mut collect = Collect::new(0, None);
    let (table, json) = (Out::default(), Out::default());
    let mut sinks: [Box<dyn Sink>; 3] = [
        Box::new(Table::new(table.clone(), Layout::default())),
        Box::new(Json::new(json.clone())),
        Box::new(Perfetto::new(io::sink())),
    ];
    let (mut rest, mut events, mut last_ns) = (bytes, 0, 0);
    while let Some((record, after)) = split(rest) {
        // Nothing is left out and nothing comes twice.
        assert_eq!(record.len() + after.len(), rest.len());
        rest = after;
        let Ok(happening) = decode(record) else {
            continue;
        };
        assert_eq!(time_of(record), Some(happening.ts_ns));
        events += 1;
        last_ns = happening.ts_ns.max(last_ns);
        let context = model.apply(&happening);
        collect.take(&happening, &context);
        let record = Record::of(&happening, &context);
        for sink in &mut sinks {
            sink.unfiltered(&happening, &context, &model)
                .and_then(|()| sink.event(&happening, &context, &model))
                .and_then(|()| sink.record(&record))
                .expect("memory can be written");
        }
    }
    assert!(rest.is_empty());
    assert_eq!(model.tally().events(), events);
    assert_eq!(collect.tally.events(), events);
    for sink in &mut sinks {
        sink.end(&model, last_ns)
            .and_then(|()| sink.flush())
            .expect("memory can be written");
    }
    screen::is_text(&table.0.borrow());
    screen::is_json_lines(&json.0.borrow());
    check(&model, last_ns);
}

/// The books are in order.
fn check(model: &Model, now_ns: u64) {
    for (key, _) in model.queues() {
        let usage = model
            .usage(key)
            .expect("a queue that is there is accounted for");
        assert!(usage.by_own <= usage.preemptions);
        assert_eq!(usage.by_cause.iter().sum::<u64>(), usage.preemptions);
        assert!(usage.off_until(now_ns) >= usage.off_ns);
    }
    let processes = model.process_usage(now_ns);
    let living = processes.iter().filter(|usage| !usage.ended);
    let queues: u64 = living.map(|usage| u64::from(usage.queues)).sum();
    assert_eq!(queues, model.queues().count() as u64);
    for usage in &processes {
        assert!(u64::from(usage.queues) <= usage.queues_seen);
        assert!(usage.by_own <= usage.preemptions);
        assert_eq!(usage.by_cause.iter().sum::<u64>(), usage.preemptions);
    }
    for (gpu_id, gpu) in model.gpus() {
        let stops: u64 = model.taken(gpu_id).map(|(_, _, taken)| taken.stops).sum();
        assert!(stops <= gpu.unmaps);
    }
}
