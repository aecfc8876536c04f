// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is on the screen and why: rows, order, selection, mode. Pure: no I/O, no clock, no terminal.

mod act;
mod found;
mod gpu;
mod history;
mod row;

use std::collections::{BTreeMap, HashMap, HashSet};

pub(super) use act::{Action, Effect};
pub(super) use gpu::GpuPane;
#[cfg(test)]
pub(super) use gpu::Over;
pub(super) use row::{Column, Row};

use super::feed::Feed;
use crate::event::{GpuId, Pid};
use crate::findings::{Finding, Rate as ClockRate};
use crate::kfd::snapshot::Snapshot;
use crate::model::{Model, QueueKey};
use gpu::GpuHistory;
use history::{History, Rate, Sample};
use row::Parts;

/// Where events come from, and whether they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Probes are being attached.
    #[default]
    Attaching,
    /// Events are seen; so many probes are missing.
    Events {
        /// Probes that this kernel should have and that could not be attached.
        missed: usize,
    },
    /// There are none, for this reason: pictures of the queues are all there is.
    None(String),
    /// A recording came to its end.
    Ended,
}

/// How a recording is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Playing {
    /// Times as fast as it was.
    pub(super) speed: f64,
    /// Since its start.
    pub(super) at_ns: u64,
}

/// What the keys mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Table,
    /// The selected queue.
    Details,
    Help,
    /// What is worth knowing.
    Findings,
    /// A text to look for is being typed.
    Search,
    /// A text that rows must have is being typed.
    Filter,
}

/// A line of the table's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A process, in the tree: its place in [`State::groups`].
    Process(usize),
    /// A queue: its place in [`State::rows`].
    Queue(usize),
}

/// A process in the tree.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) container: Option<String>,
    pub(super) queues: usize,
}

/// All of it.
#[derive(Debug)]
pub struct State {
    pub(super) now_ns: u64,
    pub(super) status: Status,
    pub(super) notice: Option<String>,
    pub(super) lost: u64,
    pub(super) events_per_s: Option<f64>,
    pub(super) playing: Option<Playing>,
    pub(super) snapshot: Snapshot,
    pub(super) gpus: Vec<GpuPane>,
    /// What is worth knowing now, of all GPUs.
    findings: Vec<Finding>,
    /// How fast the GPUs' counters run, where that could be measured.
    pub(super) rates: BTreeMap<GpuId, ClockRate>,
    /// A picture is being taken for so long, which is long.
    pub(super) late_ns: Option<u64>,
    /// In their order, filtered.
    pub(super) rows: Vec<Row>,
    pub(super) groups: Vec<Group>,
    pub(super) lines: Vec<Line>,
    /// Before filters.
    pub(super) queues: usize,
    pub(super) processes: usize,
    pub(super) mode: Mode,
    pub(super) sort: Column,
    pub(super) inverted: bool,
    pub(super) tree: bool,
    pub(super) paused: bool,
    /// Pictures with the hardware's slots were asked for.
    pub(super) slots: bool,
    pub(super) filter: String,
    pub(super) search: String,
    pub(super) gpu_filter: Option<GpuId>,
    pub(super) selected: Option<QueueKey>,
    /// First line that is shown.
    pub(super) top: usize,
    /// First line of details or help that is shown.
    pub(super) scroll: usize,
    /// Lines that there is room for.
    page: usize,
    /// Where the selection was: its place is taken by another when it goes.
    place: usize,
    /// Rows before filters.
    all: Vec<Row>,
    histories: HashMap<QueueKey, History>,
    gpu_histories: BTreeMap<GpuId, GpuHistory>,
    events: Rate,
}

impl Default for State {
    fn default() -> Self {
        Self {
            now_ns: 0,
            status: Status::default(),
            notice: None,
            lost: 0,
            events_per_s: None,
            playing: None,
            snapshot: Snapshot::default(),
            gpus: Vec::new(),
            findings: Vec::new(),
            rates: BTreeMap::new(),
            late_ns: None,
            rows: Vec::new(),
            groups: Vec::new(),
            lines: Vec::new(),
            queues: 0,
            processes: 0,
            mode: Mode::default(),
            sort: Column::Off,
            inverted: false,
            tree: false,
            paused: false,
            slots: false,
            filter: String::new(),
            search: String::new(),
            gpu_filter: None,
            selected: None,
            top: 0,
            scroll: 0,
            page: 1,
            place: 0,
            all: Vec::new(),
            histories: HashMap::new(),
            gpu_histories: BTreeMap::new(),
            events: Rate::default(),
        }
    }
}

impl State {
    /// One of a recording.
    pub(super) fn playing(speed: f64) -> Self {
        Self {
            playing: Some(Playing { speed, at_ns: 0 }),
            ..Self::default()
        }
    }

    /// Takes in what is so now. A paused screen stays as it is, but what is remembered for rates goes on.
    pub(super) fn look(&mut self, now_ns: u64, feed: &Feed, picture: Option<Snapshot>) {
        let fresh = picture.is_some() && self.playing.is_none();
        let picture = picture.unwrap_or_else(|| self.snapshot.clone());
        let keys = self.keys(&feed.model, &picture);
        self.remember(now_ns, &feed.model, &picture, &keys);
        for gpu_id in nodes(&feed.model, &picture) {
            let history = self.gpu_histories.entry(gpu_id).or_default();
            history.look(now_ns, feed.model.gpu(gpu_id), feed.unmaps.get(&gpu_id));
        }
        let events_per_s = self.events.look(now_ns, feed.model.tally().events());
        if self.paused {
            return;
        }
        self.now_ns = now_ns;
        self.late_ns = None;
        self.status = feed.status.clone();
        self.notice = feed.notice.clone();
        self.lost = feed.model.tally().lost_total();
        self.events_per_s = events_per_s;
        self.gpus = nodes(&feed.model, &picture)
            .into_iter()
            .map(|gpu_id| {
                GpuPane::of(
                    gpu_id,
                    &feed.model,
                    &picture,
                    self.gpu_histories.get(&gpu_id),
                    feed.processes_max,
                    now_ns,
                )
            })
            .collect();
        self.judge(feed, now_ns);
        let owners: HashSet<Pid> = keys.iter().map(|key| key.pid).collect();
        let others = picture.processes.iter().map(|process| process.pid);
        self.processes = others.chain(owners).collect::<HashSet<Pid>>().len();
        self.all = self.join(now_ns, &feed.model, &picture, &keys, fresh);
        self.snapshot = picture;
        self.arrange();
    }

    /// The queues that there are. Events say so as they happen, if all of them were seen; else the picture does.
    fn keys(&self, model: &Model, picture: &Snapshot) -> Vec<QueueKey> {
        let events = matches!(model_status(model), Known::All) || self.playing.is_some();
        let pictured = picture.queues.iter().map(|queue| QueueKey {
            pid: queue.pid,
            gpu_id: queue.gpu_id,
            queue_id: queue.queue_id,
        });
        let told = model.queues().map(|(key, _)| *key);
        let mut keys: Vec<QueueKey> = if events {
            told.collect()
        } else if picture.queues.is_empty() {
            told.chain(pictured).collect()
        } else {
            pictured.collect()
        };
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn remember(&mut self, now_ns: u64, model: &Model, picture: &Snapshot, keys: &[QueueKey]) {
        for key in keys {
            let seen = picture.queue(key.pid, key.gpu_id, key.queue_id);
            let usage = model.usage(key);
            let sample = Sample {
                ts_ns: now_ns,
                off_ns: usage.as_ref().map(|usage| usage.off_until(now_ns)),
                preemptions: usage.as_ref().map_or(0, |usage| usage.preemptions),
                read_index: seen.and_then(|seen| seen.read_index),
                depth: seen.and_then(crate::kfd::snapshot::Queue::depth),
            };
            self.histories
                .entry(*key)
                .or_default()
                .look(sample, usage.as_ref());
        }
        if self.histories.len() > keys.len() {
            self.histories
                .retain(|key, _| keys.binary_search(key).is_ok());
        }
    }

    fn join(
        &self,
        now_ns: u64,
        model: &Model,
        picture: &Snapshot,
        keys: &[QueueKey],
        fresh: bool,
    ) -> Vec<Row> {
        let told: HashMap<&QueueKey, _> = model.queues().collect();
        let nothing = History::default();
        keys.iter()
            .map(|key| {
                Row::of(&Parts {
                    key: *key,
                    now_ns,
                    model,
                    known: told.get(key).copied(),
                    snapshot: picture,
                    seen: picture.queue(key.pid, key.gpu_id, key.queue_id),
                    fresh,
                    history: self.histories.get(key).unwrap_or(&nothing),
                })
            })
            .collect()
    }

    /// Filters and sorts, and keeps the selection on its queue.
    fn arrange(&mut self) {
        self.queues = self.all.len();
        let typed = self.filter.to_lowercase();
        let mut rows: Vec<Row> = self
            .all
            .iter()
            .filter(|row| {
                self.gpu_filter
                    .is_none_or(|gpu_id| gpu_id == row.key.gpu_id)
            })
            .filter(|row| typed.is_empty() || row.matches(&typed))
            .cloned()
            .collect();
        let descends = self.sort.descends() != self.inverted;
        // Those that are alike keep the order of their keys, so that rows do not dance.
        rows.sort_by(|a, b| {
            let order = self.sort.compare(a, b);
            let order = if descends { order.reverse() } else { order };
            order.then_with(|| a.key.cmp(&b.key))
        });
        self.rows = rows;
        self.group();
        let lines = self.queue_lines();
        let keeps = self
            .selected
            .is_some_and(|key| self.rows.iter().any(|row| row.key == key));
        if !keeps {
            let at = self.place.min(lines.len().saturating_sub(1));
            self.selected = lines.get(at).map(|row| self.rows[*row].key);
            if self.mode == Mode::Details {
                self.mode = Mode::Table;
                self.notice = Some("that queue is gone".to_owned());
            }
        }
        self.place = self.selected_place().unwrap_or(0);
        self.keep_in_view();
    }

    /// The lines of the body: queues, or processes with theirs.
    fn group(&mut self) {
        self.groups.clear();
        self.lines.clear();
        if !self.tree {
            self.lines.extend((0..self.rows.len()).map(Line::Queue));
            return;
        }
        let mut of: Vec<(Pid, Vec<usize>)> = Vec::new();
        for (at, row) in self.rows.iter().enumerate() {
            match of.iter_mut().find(|(pid, _)| *pid == row.key.pid) {
                Some((_, rows)) => rows.push(at),
                None => of.push((row.key.pid, vec![at])),
            }
        }
        // A process without queues holds a place in the runlist all the same.
        if self.filter.is_empty() && self.gpu_filter.is_none() {
            for process in &self.snapshot.processes {
                if !of.iter().any(|(pid, _)| *pid == process.pid) {
                    of.push((process.pid, Vec::new()));
                }
            }
        }
        for (pid, rows) in of {
            let process = self.snapshot.process(pid);
            let first = rows.first().map(|at| &self.rows[*at]);
            let comm = process.and_then(|process| process.comm);
            let name = first.map_or_else(
                || {
                    format!(
                        "{}[{pid}]",
                        comm.map(|comm| comm.to_string()).unwrap_or_default()
                    )
                },
                Row::process,
            );
            self.groups.push(Group {
                name,
                container: first.and_then(|row| row.container.clone()),
                queues: rows.len(),
            });
            self.lines.push(Line::Process(self.groups.len() - 1));
            self.lines.extend(rows.into_iter().map(Line::Queue));
        }
    }

    /// Rows in the order of the lines.
    fn queue_lines(&self) -> Vec<usize> {
        self.lines
            .iter()
            .filter_map(|line| match line {
                Line::Queue(at) => Some(*at),
                Line::Process(_) => None,
            })
            .collect()
    }

    /// Place of the selection among the queues on the screen.
    fn selected_place(&self) -> Option<usize> {
        let selected = self.selected?;
        self.queue_lines()
            .iter()
            .position(|row| self.rows[*row].key == selected)
    }

    /// The selected queue.
    pub(super) fn selected_row(&self) -> Option<&Row> {
        let selected = self.selected?;
        self.rows.iter().find(|row| row.key == selected)
    }

    /// Selects the queue at a place among those on the screen, or the nearest.
    fn select(&mut self, place: usize) {
        let lines = self.queue_lines();
        let place = place.min(lines.len().saturating_sub(1));
        if let Some(row) = lines.get(place) {
            self.selected = Some(self.rows[*row].key);
            self.place = place;
        }
        self.keep_in_view();
    }

    fn keep_in_view(&mut self) {
        let line = self.selected.and_then(|selected| {
            self.lines
                .iter()
                .position(|line| matches!(line, Line::Queue(at) if self.rows[*at].key == selected))
        });
        let line = line.unwrap_or(0);
        // The process of the first queue is a line of its own above it.
        let from = match line.checked_sub(1).map(|above| self.lines[above]) {
            Some(Line::Process(_)) if self.page > 1 => line - 1,
            _ => line,
        };
        self.top = self.top.min(from).max((line + 1).saturating_sub(self.page));
        self.top = self.top.min(self.lines.len().saturating_sub(self.page));
    }

    /// Tells how many lines of the table there is room for.
    pub(super) fn fit(&mut self, page: usize) {
        self.page = page.max(1);
        self.keep_in_view();
    }

    /// Tells how many lines details or help have beyond the room for them.
    pub(super) fn limit_scroll(&mut self, most: usize) {
        self.scroll = self.scroll.min(most);
    }
}

enum Known {
    All,
    Some,
}

/// Whether the model has every queue: events are seen, and none was lost.
fn model_status(model: &Model) -> Known {
    match (model.tally().events(), model.tally().lost_total()) {
        (1.., 0) => Known::All,
        _ => Known::Some,
    }
}

/// Nodes by number, then those that only events named.
fn nodes(model: &Model, picture: &Snapshot) -> Vec<GpuId> {
    let mut nodes: Vec<GpuId> = picture.gpus.iter().map(|gpu| gpu.node.gpu_id).collect();
    let mut others: Vec<GpuId> = model
        .queues()
        .map(|(key, _)| key.gpu_id)
        .filter(|gpu_id| !nodes.contains(gpu_id))
        .collect();
    others.sort_unstable();
    others.dedup();
    nodes.extend(others);
    nodes
}

/// `name[pid]` of any process, escaped.
fn named(model: &Model, picture: &Snapshot, pid: Pid) -> String {
    let comm = picture
        .process(pid)
        .and_then(|process| process.comm)
        .or_else(|| model.comm(pid));
    format!(
        "{}[{pid}]",
        comm.map(|comm| comm.to_string()).unwrap_or_default()
    )
}

#[cfg(test)]
pub(super) mod tests;
