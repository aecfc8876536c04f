// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a trace of this program back, and refuses what Perfetto would show wrongly: for tests, here and on a real driver. Perfetto's own
//! trace processor is asked too (`gpreempt/tests/trace_processor.rs`).

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;

use super::proto::{EventType, Name, Trace as Packets, TrackEvent, CLOCK_BOOTTIME, STATE_CLEARED};

/// A trace, by tracks.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// By uuid.
    pub tracks: BTreeMap<u64, Track>,
    /// In the order of their beginning on each track.
    pub slices: Vec<Slice>,
    /// What has no duration.
    pub instants: Vec<Slice>,
    /// Track, time, value.
    pub counts: Vec<(u64, u64, i64)>,
    /// CLOCK_BOOTTIME and wall clock of one moment.
    pub clocks: Option<(u64, u64)>,
}

/// A track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// Its name; for a process, that of the process.
    pub name: String,
    /// What it is below.
    pub parent: Option<u64>,
    /// The process that it stands for.
    pub pid: Option<u32>,
    /// It holds numbers, no slices.
    pub counter: bool,
}

/// A slice, or an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its track.
    pub track: u64,
    /// Its name.
    pub name: String,
    /// When it began.
    pub begin_ns: u64,
    /// When it ended; `None` if it was open when the file ended.
    pub end_ns: Option<u64>,
    /// Slices that it is within.
    pub depth: usize,
    /// Its arguments as text.
    pub args: BTreeMap<String, String>,
    /// Numbers that join it with others.
    pub flows: Vec<u64>,
}

/// What is wrong with a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is no protobuf, or not of these messages.
    #[error("cannot be decoded: {0}")]
    Undecodable(String),
    /// The first packet must begin the state that all others refer to, and say which clock they use.
    #[error("the first packet does not begin a sequence")]
    NoBeginning,
    /// A number that no name was given for.
    #[error("name {0} was not written before it was used")]
    NoName(u64),
    /// An event on a track that was not described, or a track below such.
    #[error("track {0:#x} was used before it was described")]
    NoTrack(u64),
    /// Time goes back on a track.
    #[error("time goes back to {1} on track {0}")]
    Backwards(String, u64),
    /// A slice ends where none is open.
    #[error("track {0} has an end without a beginning at {1}")]
    EndOfNothing(String, u64),
    /// An event that its track cannot hold.
    #[error("track {0} got an event of the wrong type")]
    WrongType(String),
}

#[derive(Default)]
struct State {
    trace: Trace,
    names: HashMap<u64, String>,
    arg_names: HashMap<u64, String>,
    last_ns: HashMap<u64, u64>,
    /// Slices that are open, by track.
    open: HashMap<u64, Vec<usize>>,
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Broken`], at the first thing that is.
    pub fn read(bytes: &[u8]) -> Result<Self, Broken> {
        let packets =
            Packets::decode(bytes).map_err(|error| Broken::Undecodable(error.to_string()))?;
        let mut state = State::default();
        for (at, packet) in packets.packet.into_iter().enumerate() {
            let clears = packet.sequence_flags.unwrap_or_default() & STATE_CLEARED != 0;
            let clock = packet
                .trace_packet_defaults
                .as_ref()
                .and_then(|defaults| defaults.timestamp_clock_id);
            if (at == 0) != clears || (at == 0) != (clock == Some(CLOCK_BOOTTIME)) {
                return Err(Broken::NoBeginning);
            }
            if let Some(interned) = packet.interned_data {
                add_names(&mut state.names, interned.event_names);
                add_names(&mut state.arg_names, interned.debug_annotation_names);
            }
            if let Some(snapshot) = packet.clock_snapshot {
                let times: Vec<u64> = snapshot
                    .clocks
                    .iter()
                    .filter_map(|clock| clock.timestamp)
                    .collect();
                if let [boottime_ns, realtime_ns] = times[..] {
                    state.trace.clocks = Some((boottime_ns, realtime_ns));
                }
            }
            if let Some(track) = packet.track_descriptor {
                let uuid = track.uuid.unwrap_or_default();
                if let Some(parent) = track.parent_uuid {
                    if !state.trace.tracks.contains_key(&parent) {
                        return Err(Broken::NoTrack(parent));
                    }
                }
                let pid = track.process.as_ref().and_then(|process| process.pid);
                let name = track
                    .process
                    .as_ref()
                    .and_then(|process| process.process_name.clone());
                let described = Track {
                    name: name.or(track.name).unwrap_or_default(),
                    parent: track.parent_uuid,
                    pid: pid.and_then(|pid| u32::try_from(pid).ok()),
                    counter: track.counter.is_some(),
                };
                state.trace.tracks.insert(uuid, described);
            }
            if let Some(event) = packet.track_event {
                state.event(packet.timestamp.unwrap_or_default(), event)?;
            }
        }
        Ok(state.trace)
    }

    /// Slices and instants of tracks of this name.
    #[must_use]
    pub fn on(&self, name: &str) -> Vec<&Slice> {
        let all = self.slices.iter().chain(&self.instants);
        all.filter(|slice| self.name_of(slice) == name).collect()
    }

    /// Name of the track that a slice is on.
    #[must_use]
    pub fn name_of(&self, slice: &Slice) -> &str {
        let track = self.tracks.get(&slice.track);
        track.map_or("", |track| track.name.as_str())
    }

    /// The process that a slice's track is below.
    #[must_use]
    pub fn pid_of(&self, slice: &Slice) -> Option<u32> {
        let mut track = self.tracks.get(&slice.track)?;
        loop {
            if track.pid.is_some() {
                return track.pid;
            }
            track = self.tracks.get(&track.parent?)?;
        }
    }

    /// Whether slices are still open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.slices.iter().any(|slice| slice.end_ns.is_none())
    }
}

fn add_names(names: &mut HashMap<u64, String>, new: Vec<Name>) {
    names.extend(
        new.into_iter()
            .filter_map(|name| Some((name.iid?, name.name?))),
    );
}

impl State {
    fn event(&mut self, ts_ns: u64, event: TrackEvent) -> Result<(), Broken> {
        let uuid = event.track_uuid.unwrap_or_default();
        let track = self.trace.tracks.get(&uuid).ok_or(Broken::NoTrack(uuid))?;
        let (name, counter) = (track.name.clone(), track.counter);
        let last_ns = self.last_ns.entry(uuid).or_default();
        if ts_ns < *last_ns {
            return Err(Broken::Backwards(name, ts_ns));
        }
        *last_ns = ts_ns;
        let kind = event.r#type();
        if counter != (kind == EventType::Counter) {
            return Err(Broken::WrongType(name));
        }
        match kind {
            EventType::SliceBegin | EventType::Instant => {
                let mut slice = self.slice(uuid, ts_ns, &event)?;
                if kind == EventType::Instant {
                    slice.end_ns = Some(ts_ns);
                    self.trace.instants.push(slice);
                    return Ok(());
                }
                let open = self.open.entry(uuid).or_default();
                slice.depth = open.len();
                open.push(self.trace.slices.len());
                self.trace.slices.push(slice);
            }
            EventType::SliceEnd => {
                let ended = self.open.entry(uuid).or_default().pop();
                let ended = ended.ok_or(Broken::EndOfNothing(name, ts_ns))?;
                self.trace.slices[ended].end_ns = Some(ts_ns);
            }
            EventType::Counter => {
                let value = event.counter_value.unwrap_or_default();
                self.trace.counts.push((uuid, ts_ns, value));
            }
            EventType::Unspecified => return Err(Broken::WrongType(name)),
        }
        Ok(())
    }

    fn slice(&self, track: u64, ts_ns: u64, event: &TrackEvent) -> Result<Slice, Broken> {
        let named = |names: &HashMap<u64, String>, number: Option<u64>| {
            let number = number.unwrap_or_default();
            names.get(&number).cloned().ok_or(Broken::NoName(number))
        };
        let mut args = BTreeMap::new();
        for arg in &event.debug_annotations {
            let value = arg
                .string_value
                .clone()
                .or(arg.uint_value.map(|value| value.to_string()))
                .or(arg.int_value.map(|value| value.to_string()))
                .or(arg.bool_value.map(|value| value.to_string()));
            args.insert(
                named(&self.arg_names, arg.name_iid)?,
                value.unwrap_or_default(),
            );
        }
        Ok(Slice {
            track,
            name: named(&self.names, event.name_iid)?,
            begin_ns: ts_ns,
            end_ns: None,
            depth: 0,
            args,
            flows: event.flow_ids.clone(),
        })
    }
}
