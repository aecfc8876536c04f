// SPDX-License-Identifier: MIT OR Apache-2.0
//! One watch: records through decoder, model and filter to the sinks, and the counts of it all.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Host, Options, Source};
use crate::event::{decode, Cause, Comm, Escaped, Event, Happening, Kind, Pid, QueueType};
use crate::kfd::queues::SysfsQueue;
use crate::kfd::{module, queues, task, topology, Root};
use crate::model::{Context, Limits, Model, QueueKey, Tally};
use crate::sink::filter::Filter;
use crate::sink::record::{
    DriverChange, DriverState, End, Gpu, Id64, Lost, Probe, Record, Startup, Summary, SCHEMA,
};
use crate::sink::{Commands, Sink};
use crate::source::{self, Counters};

pub(super) struct Session<'a> {
    root: Root,
    filter: Filter,
    count: Option<u64>,
    raw: bool,
    start_ns: u64,
    last_ns: u64,
    model: Model,
    sinks: &'a mut [Box<dyn Sink>],
    shown: Tally,
    filtered: u64,
    undecoded: u64,
    /// Of sources before the present one.
    ended: Counters,
    /// Of the present source while it was being attached: not part of the watch.
    before: Counters,
    present: Counters,
    /// The first error of a sink; nothing is written after it.
    failed: Option<io::Error>,
}

impl<'a> Session<'a> {
    pub(super) fn new<H: Host>(
        host: &H,
        options: &Options,
        start_ns: u64,
        sinks: &'a mut [Box<dyn Sink>],
    ) -> Self {
        Self {
            root: host.root().clone(),
            filter: options.filter.clone(),
            count: options.count,
            raw: options.raw,
            start_ns,
            last_ns: start_ns,
            model: Model::default(),
            sinks,
            shown: Tally::default(),
            filtered: 0,
            undecoded: 0,
            ended: Counters::default(),
            before: Counters::default(),
            present: Counters::default(),
            failed: None,
        }
    }

    /// The first lines: startup and the queues that are there already.
    pub(super) fn begin<S: Source, H: Host>(&mut self, source: &mut S, host: &H) -> io::Result<()> {
        self.before = source.counters();
        self.model.begin(self.start_ns);
        let gpus = self.gpus();
        let found = source.startup();
        let (probes_attached, probes_missed) = attached_and_missed(found);
        let startup = Startup {
            ts_ns: self.start_ns,
            unix_ns: Id64(host.unix_ns()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: SCHEMA,
            kernel: found.kernel.clone(),
            module: found.module.clone(),
            module_version: found.module_version.clone(),
            offsets: found.offsets.clone(),
            ring_bytes: found.ring_bytes,
            probes_attached,
            probes_missed,
            probes: found.probes.iter().map(Probe::from).collect(),
            gpus,
        };
        self.emit(&Record::Startup(Box::new(startup)));
        self.snapshot(source, host.now_ns());
        self.check()
    }

    /// Tells the queues of sysfs, then the records made so far. The probes are attached before sysfs is read, so that no
    /// queue is missed; a queue whose creation is among the records is not told as existing too.
    fn snapshot<S: Source>(&mut self, source: &mut S, now_ns: u64) {
        let queues = queues::read(&self.root).unwrap_or_default();
        let mut records: Vec<Vec<u8>> = Vec::new();
        source.drain(&mut |bytes| records.push(bytes.to_vec()));
        let created = created_first(&records);
        let mut names: HashMap<Pid, Comm> = HashMap::new();
        for queue in queues {
            let key = QueueKey {
                pid: queue.pid,
                gpu_id: queue.gpu_id,
                queue_id: queue.queue_id,
            };
            if created.contains(&key) {
                continue;
            }
            let comm = *names.entry(queue.pid).or_insert_with(|| {
                task::comm(&self.root, queue.pid).unwrap_or_else(|| Comm::from_procfs(b""))
            });
            self.show(&existing(&queue, comm, now_ns));
        }
        for bytes in &records {
            self.take(bytes);
        }
    }

    /// One record from the ring.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        // Where it lies: it is as long as what is done with it is short.
        match &decode(bytes) {
            Ok(happening) => self.show(happening),
            Err(_) => self.undecoded += 1,
        }
    }

    fn show(&mut self, happening: &Happening) {
        self.last_ns = self.last_ns.max(happening.ts_ns);
        if self.raw {
            return self.tell(|sink, _| sink.raw(happening));
        }
        // Mostly a process acts for itself.
        let actor = Some(happening.actor_pid).filter(|actor| happening.pid != Some(*actor));
        for pid in [happening.pid, actor, happening.event.owner_pid()]
            .into_iter()
            .flatten()
        {
            if self.model.wants_name(pid) {
                self.model.learn(pid, task::comm(&self.root, pid));
            }
        }
        let mut context = self.model.apply(happening);
        self.add_cgroup(happening, &mut context);
        if !self.is_full() {
            self.tell(|sink, model| sink.unfiltered(happening, &context, model));
        }
        if !self.filter.shows(happening, &context) {
            self.filtered += 1;
        } else if !self.is_full() {
            self.shown.count(happening.event.kind());
            self.tell(|sink, model| sink.event(happening, &context, model));
            self.emit(&Record::of(happening, &context));
        }
    }

    fn add_cgroup(&mut self, happening: &Happening, context: &mut Context) {
        if let (Event::ProcessAttached { cgroup_id, .. }, Some(pid), None) =
            (happening.event, happening.pid, &context.cgroup)
        {
            if let Some(path) = task::cgroup(&self.root, pid, cgroup_id) {
                let path: Arc<str> = Escaped(path.as_bytes()).to_string().into();
                self.model.set_cgroup(pid, Arc::clone(&path));
                context.cgroup = Some(path);
            }
        }
    }

    /// Whether as many events were shown as were asked for.
    pub(super) fn is_full(&self) -> bool {
        self.count.is_some_and(|count| self.shown.events() >= count)
    }

    /// Looks at the loss counters.
    pub(super) fn counters<S: Source, H: Host>(&mut self, source: &S, host: &H) -> io::Result<()> {
        let now_ns = host.now_ns();
        self.last_ns = self.last_ns.max(now_ns);
        self.count_losses(source.counters(), now_ns);
        self.check()
    }

    fn count_losses(&mut self, counters: Counters, now_ns: u64) {
        self.present = difference(counters, self.before);
        let count = self.model.lost(self.present.ring_full);
        if count > 0 {
            let total = self.model.tally().lost_total();
            self.emit(&Record::Lost(Lost {
                ts_ns: now_ns,
                count,
                total,
            }));
        }
    }

    /// A source was stopped and drained.
    pub(super) fn source_ended<S: Source>(&mut self, source: &S) -> io::Result<()> {
        let last_ns = self.last_ns;
        self.count_losses(source.counters(), last_ns);
        self.ended = sum(self.ended, self.present);
        self.present = Counters::default();
        self.check()
    }

    pub(super) fn driver_gone<H: Host>(&mut self, host: &H) -> io::Result<()> {
        self.model.driver_gone(host.now_ns());
        self.last_ns = self.last_ns.max(host.now_ns());
        self.emit(&Record::Driver(DriverChange {
            ts_ns: host.now_ns(),
            state: DriverState::Gone,
            module: None,
            module_version: None,
            probes_attached: None,
            probes_missed: None,
            gpus: Vec::new(),
        }));
        self.check()
    }

    pub(super) fn driver_loaded<S: Source, H: Host>(
        &mut self,
        source: &mut S,
        host: &H,
    ) -> io::Result<()> {
        self.before = source.counters();
        let gpus = self.gpus();
        let found = source.startup();
        let (probes_attached, probes_missed) = attached_and_missed(found);
        self.emit(&Record::Driver(DriverChange {
            ts_ns: host.now_ns(),
            state: DriverState::Loaded,
            module: Some(found.module.clone()),
            module_version: found.module_version.clone(),
            probes_attached: Some(probes_attached),
            probes_missed: Some(probes_missed),
            gpus,
        }));
        self.snapshot(source, host.now_ns());
        self.check()
    }

    /// The GPUs, whose limits the model is told.
    fn gpus(&mut self) -> Vec<Gpu> {
        let nodes = topology::read(&self.root);
        let max_processes = module::max_processes(&self.root);
        for node in &nodes {
            let limits = Limits::new(node.num_cp_queues(), max_processes);
            self.model.set_limits(node.gpu_id, limits);
        }
        nodes.iter().map(Gpu::from).collect()
    }

    /// The last line; flushes.
    pub(super) fn finish(&mut self, end: End, now_ns: u64) -> io::Result<Summary> {
        self.last_ns = self.last_ns.max(now_ns);
        let counters = sum(self.ended, self.present);
        let summary = Summary {
            ts_ns: self.last_ns,
            duration_ns: self.last_ns.saturating_sub(self.start_ns),
            end,
            events: self.shown.by_kind().collect(),
            shown: self.shown.events(),
            filtered: self.filtered,
            lost: counters.ring_full,
            undecoded: self.undecoded,
            unmatched: counters.unmatched,
            read_fault: counters.read_fault,
        };
        let record = Record::Summary(summary.clone());
        let mut first = self.failed.take();
        for sink in self.sinks.iter_mut() {
            let ended = sink.end(&self.model, self.last_ns);
            if let Err(e) = ended
                .and_then(|()| sink.record(&record))
                .and_then(|()| sink.flush())
            {
                first.get_or_insert(e);
            }
        }
        first.map_or(Ok(summary), Err)
    }

    fn tell(&mut self, tell: impl Fn(&mut dyn Sink, &Model) -> io::Result<()>) {
        if self.failed.is_some() {
            return;
        }
        for sink in self.sinks.iter_mut() {
            if let Err(e) = tell(sink.as_mut(), &self.model) {
                self.failed = Some(e);
                return;
            }
        }
    }

    fn emit(&mut self, record: &Record) {
        if self.failed.is_some() {
            return;
        }
        for sink in self.sinks.iter_mut() {
            if let Err(e) = sink.record(record) {
                self.failed = Some(e);
                return;
            }
        }
    }

    /// From time to time.
    pub(super) fn tick(&mut self) -> io::Result<()> {
        let model = &self.model;
        self.sinks.iter_mut().try_for_each(|sink| sink.tick(model))
    }

    /// Something became of the commands.
    pub(super) fn commands(&mut self, commands: Commands<'_>, now_ns: u64) -> io::Result<()> {
        let model = &self.model;
        self.sinks
            .iter_mut()
            .try_for_each(|sink| sink.commands(commands, model, now_ns))
    }

    /// Makes what was shown visible.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.check()?;
        self.sinks.iter_mut().try_for_each(|sink| sink.flush())
    }

    fn check(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

/// Queues whose first record is their creation: they were not there before.
fn created_first(records: &[Vec<u8>]) -> HashSet<QueueKey> {
    let mut seen = HashSet::new();
    let mut created = HashSet::new();
    for happening in records.iter().filter_map(|bytes| decode(bytes).ok()) {
        let event = &happening.event;
        if let (Some(pid), Some(gpu_id), Some(queue_id)) =
            (happening.pid, event.gpu_id(), event.queue_id())
        {
            let key = QueueKey {
                pid,
                gpu_id,
                queue_id,
            };
            if seen.insert(key) && event.kind() == Kind::QueueCreated {
                created.insert(key);
            }
        }
    }
    created
}

fn existing(queue: &SysfsQueue, comm: Comm, ts_ns: u64) -> Happening {
    Happening {
        ts_ns,
        total_ns: 0,
        cause: Cause::Other,
        status: 0,
        pid: Some(queue.pid),
        actor_pid: queue.pid,
        actor_tid: queue.pid.0,
        event: Event::QueueExisting {
            gpu_id: queue.gpu_id,
            queue_id: queue.queue_id,
            queue_type: QueueType::from_raw(queue.queue_type),
            ring_bytes: queue.ring_bytes,
            comm,
        },
    }
}

fn attached_and_missed(startup: &source::Startup) -> (usize, usize) {
    let probes = || startup.probes.iter();
    let attached = probes().filter(|probe| probe.attached).count();
    let missed = probes().filter(|probe| probe.applies && !probe.attached);
    (attached, missed.count())
}

fn sum(a: Counters, b: Counters) -> Counters {
    Counters {
        ring_full: a.ring_full + b.ring_full,
        unmatched: a.unmatched + b.unmatched,
        read_fault: a.read_fault + b.read_fault,
        written: a.written + b.written,
    }
}

fn difference(a: Counters, b: Counters) -> Counters {
    Counters {
        ring_full: a.ring_full.saturating_sub(b.ring_full),
        unmatched: a.unmatched.saturating_sub(b.unmatched),
        read_fault: a.read_fault.saturating_sub(b.read_fault),
        written: a.written.saturating_sub(b.written),
    }
}

pub(super) fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
