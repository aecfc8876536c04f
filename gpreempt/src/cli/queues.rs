// SPDX-License-Identifier: MIT OR Apache-2.0
//! `queues`: a picture of every compute queue.

use std::cell::RefCell;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;

use anyhow::anyhow;

use super::output::{self, Format};
use super::watch::duration;
use super::{Exit, Failure, Global};
use crate::engine::{Host as _, LiveHost, Options, RecordedHost};
use crate::event::{Happening, Pid, QueueType};
use crate::findings::{self, History, Kind, Severity};
use crate::inspect;
use crate::kfd::name::{CommGlob, GpuArg};
use crate::kfd::snapshot::{self, Lack, Snapshot, State, Want};
use crate::kfd::{module, Root};
use crate::model::{Context, Model};
use crate::sink::json;
use crate::sink::picture::{Beside, Picture, Sample, Select, Sort};
use crate::sink::record::Record;
use crate::sink::Sink;
use crate::source::{Attach, LiveOptions};

/// Show every compute queue: whose it is, whether it is mapped, how much work waits
///
/// Reads sysfs, debugfs, the driver's structs by eBPF, and the queues' indices in the memory of their owners. Without root it shows
/// what sysfs has and says what is missing. Never opens /dev/kfd. Filters decide what is shown; within one option any value will do.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Queues {
    /// How queues are written: for people, or one object a line for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only queues of these processes
    #[arg(long, value_delimiter = ',')]
    pid: Vec<Pid>,
    /// Only queues of processes of this name: *, ? and [...] as in a shell
    #[arg(long, value_name = "GLOB")]
    comm: Vec<CommGlob>,
    /// Only queues on these GPUs: gpu_id, hexadecimal as in the table or decimal as in JSON
    #[arg(long, value_delimiter = ',', value_name = "GPU_ID")]
    gpu: Vec<GpuArg>,
    /// Only queues in these states
    #[arg(long, value_enum, value_delimiter = ',')]
    state: Vec<State>,
    /// Only queues of these types
    #[arg(
        long = "type",
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true
    )]
    types: Vec<QueueType>,
    /// By what they are ordered; what counts comes with the most first
    #[arg(long, value_enum, default_value_t = Sort::Pid)]
    sort: Sort,
    /// Also which hardware slots queues are on: reads thousands of registers under the driver's lock
    #[arg(long)]
    hqds: bool,
    /// Time between the two looks that make a rate; 0 = one look, no rate
    #[arg(long, value_parser = duration, default_value = "200ms")]
    interval: Duration,
    /// Go on: a new picture that often. Events are watched meanwhile, so that it also tells how old queues are, how often they were taken off and for how long
    #[arg(long, value_parser = duration, num_args = 0..=1, default_missing_value = "2s", require_equals = true, value_name = "INTERVAL")]
    watch: Option<Duration>,
    /// A mapped queue is idle after so long without a packet; shorter than what is looked at, which --watch makes long
    #[arg(long, value_parser = duration, default_value = "10s", value_name = "TIME")]
    idle_after: Duration,
    /// Of a recording: the last picture in it until then, from its start
    #[arg(long, value_parser = duration, value_name = "TIME")]
    at: Option<Duration>,
    /// Offsets of kernel structs, for a driver without BTF (made by doctor --extract-offsets)
    #[arg(long, value_name = "PROFILE", alias = "profile")]
    offsets: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt queues --sort depth
  gpreempt queues --state held,evicted,suspended --watch=1
  gpreempt queues --hqds --format json | jq 'select(.type == \"queue\").data.slots'
  gpreempt replay night.gpr queues --sort preempted

Types: compute sdma sdma_xgmi sdma_by_engine";

/// The least time between two pictures.
const LEAST_PERIOD: Duration = Duration::from_millis(100);

impl Queues {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        if self.at.is_some() {
            let error = anyhow!("--at is for recordings: gpreempt replay FILE queues --at TIME");
            return Err(Failure::new(Exit::Usage, error));
        }
        let root = global.root();
        if !root.exists("/sys/class/kfd/kfd") {
            let absent = module::absent(&root);
            let error = anyhow!("{}: {}", absent.why, absent.fix);
            return Err(Failure::new(Exit::Unavailable, error));
        }
        inspect::use_offsets(self.offsets.clone());
        let (select, want) = (self.select(), self.want());
        let mut show = Show::new(self.format, global);
        let mut history = History::default();
        self.first(&root, want, &mut history);
        if let Some(picture) = self.picture(&history, &select, None, None) {
            show.picture(picture, self.watch.is_some())?;
        }
        let Some(period) = self.watch else {
            return Ok(Exit::Ok);
        };
        let period = period.max(LEAST_PERIOD);
        let offsets = self.offsets.clone();
        let more = Rc::new(RefCell::new(More {
            verb: self,
            root: root.clone(),
            select,
            history,
            show,
        }));
        if root.is_real() {
            match with_events(&more, offsets, period) {
                Ok(exit) => return Ok(exit),
                Err(failure) => output::say(&format!(
                    "not known: how old queues are, how often and how long they were off: {}",
                    failure.message().unwrap_or_default()
                )),
            }
        }
        loop {
            sleep(period);
            if output::reader_gone() {
                return Ok(Exit::Ok);
            }
            more.borrow_mut().picture(None)?;
        }
    }

    /// The same of a recording: its last picture, and what was watched until then.
    pub(super) fn replay(self, file: &Path, global: &Global) -> Result<Exit, Failure> {
        if self.watch.is_some() {
            let error = anyhow!("a recording does not go on: --watch is for the running machine");
            return Err(Failure::new(Exit::Usage, error));
        }
        let mut host = RecordedHost::open(file, self.at)?;
        let history = pictures(&mut host, self.want());
        let format = self.format;
        let picture = Rc::default();
        let last = Last {
            verb: self,
            root: host.root().clone(),
            history,
            picture: Rc::clone(&picture),
        };
        let outcome = super::run_watch(&host, Options::default(), &mut [Box::new(last)]);
        // Also of one that is cut off: what could be read.
        if let Some(picture) = picture.take() {
            Show::new(format, global).picture(picture, false)?;
        }
        Ok(super::exit_of(&outcome?))
    }

    /// A picture, and the one before it that makes a rate.
    fn first(&self, root: &Root, want: Want, history: &mut History) {
        take(root, want, history);
        let Some((first, _)) = history.now() else {
            return;
        };
        let readable = first.queues.iter().any(|q| q.read_index.is_some());
        if self.interval.is_zero() || !readable {
            return;
        }
        let mut snapshot = first.clone();
        sleep(self.interval);
        snapshot::read_indices(root, &mut snapshot.queues, &mut |_| {});
        snapshot.ts_ns = snapshot::now_ns(root);
        let ts_ns = snapshot.ts_ns;
        history.picture(snapshot, ts_ns, ts_ns);
    }

    /// The last picture with its findings. `ended_ns` is the end of a recording, which is later than its last picture.
    fn picture(
        &self,
        history: &History,
        select: &Select,
        model: Option<&Model>,
        ended_ns: Option<u64>,
    ) -> Option<Picture> {
        let (snapshot, taken_ns) = history.now()?;
        let ts_ns = ended_ns.unwrap_or(taken_ns);
        let before = history.before().map(|(before, before_ns)| {
            let mut sample = Sample::of(before);
            // The same time apart.
            sample.ts_ns = ts_ns.saturating_sub(taken_ns.saturating_sub(before_ns));
            sample
        });
        let snapshot = Snapshot {
            ts_ns,
            ..snapshot.clone()
        };
        let beside = Beside {
            before: before.as_ref(),
            model,
            with_slots: self.hqds,
        };
        let mut picture = Picture::new(&snapshot, select, beside);
        let idle_after_ns = u64::try_from(self.idle_after.as_nanos()).unwrap_or(u64::MAX);
        let mut evidence = history.evidence(model, idle_after_ns, ts_ns);
        if ended_ns.is_some() {
            // Of the whole recording.
            evidence.before = history.first();
        }
        let is_only_one = history.before().is_none();
        let mut findings = findings::find(&evidence);
        findings.retain(|finding| match finding.kind {
            // Times of saves that may be of long ago are no news.
            Kind::SaveRestore => !is_only_one,
            // `stat` counts them; here, what is wrong.
            Kind::Preempted => finding.severity == Severity::Warn,
            _ => true,
        });
        picture.tell(findings, select);
        Some(picture)
    }

    fn want(&self) -> Want {
        Want { hqds: self.hqds }
    }

    fn select(&self) -> Select {
        Select {
            pids: self.pid.clone(),
            comms: self.comm.clone(),
            gpus: self.gpu.clone(),
            states: self.state.clone(),
            types: self.types.clone(),
            sort: self.sort,
        }
    }
}

fn take(root: &Root, want: Want, history: &mut History) {
    let snapshot = inspect::look(root, want);
    let begun_ns = snapshot.ts_ns;
    history.picture(snapshot, begun_ns, snapshot::now_ns(root));
}

/// All pictures of a recording, as they come when it is played.
pub(super) fn pictures(host: &mut RecordedHost, want: Want) -> Rc<RefCell<History>> {
    let history: Rc<RefCell<History>> = Rc::default();
    let sink = Rc::clone(&history);
    host.on_picture(Box::new(move |root, snapped| {
        let picture = inspect::look(root, want);
        sink.borrow_mut()
            .picture(picture, snapped.ts_ns, snapped.done_ns());
    }));
    history
}

/// Picture after picture of the running machine.
struct More {
    verb: Queues,
    root: Root,
    select: Select,
    history: History,
    show: Show,
}

impl More {
    /// Another one.
    fn picture(&mut self, model: Option<&Model>) -> io::Result<()> {
        take(&self.root, self.verb.want(), &mut self.history);
        match self.verb.picture(&self.history, &self.select, model, None) {
            Some(picture) => self.show.picture(picture, true),
            None => Ok(()),
        }
    }
}

/// With what events tell of each queue since now.
fn with_events(
    more: &Rc<RefCell<More>>,
    profile: Option<PathBuf>,
    period: Duration,
) -> Result<Exit, Failure> {
    let root = more.borrow().root.clone();
    let live = LiveOptions {
        profile,
        ..LiveOptions::default()
    };
    let host = LiveHost::new(root, live, Attach::Auto);
    let options = Options {
        tick: Some(period),
        reader_gone: Some(output::reader_gone),
        ..Options::default()
    };
    let outcome = super::run_watch(&host, options, &mut [Box::new(Rc::clone(more))])?;
    Ok(super::exit_of(&outcome))
}

impl Sink for Rc<RefCell<More>> {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.borrow_mut().history.record(record);
        Ok(())
    }

    fn unfiltered(&mut self, happening: &Happening, _: &Context, _: &Model) -> io::Result<()> {
        self.borrow_mut().history.event(happening);
        Ok(())
    }

    fn tick(&mut self, model: &Model) -> io::Result<()> {
        self.borrow_mut().picture(Some(model))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the picture when everything was played.
struct Last {
    verb: Queues,
    root: Root,
    history: Rc<RefCell<History>>,
    picture: Rc<RefCell<Option<Picture>>>,
}

impl Sink for Last {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.history.borrow_mut().record(record);
        Ok(())
    }

    fn unfiltered(&mut self, happening: &Happening, _: &Context, _: &Model) -> io::Result<()> {
        self.history.borrow_mut().event(happening);
        Ok(())
    }

    fn end(&mut self, model: &Model, ts_ns: u64) -> io::Result<()> {
        let mut history = self.history.borrow_mut();
        history.settle();
        if history.now().is_none() {
            history.picture(inspect::look(&self.root, self.verb.want()), ts_ns, ts_ns);
        }
        let select = self.verb.select();
        *self.picture.borrow_mut() = self
            .verb
            .picture(&history, &select, Some(model), Some(ts_ns));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Pictures on stdout, what is missing on stderr.
struct Show {
    format: Format,
    color: bool,
    told: Vec<Lack>,
    shown: usize,
}

impl Show {
    fn new(format: Format, global: &Global) -> Self {
        Self {
            format,
            color: global.color.on_stdout(),
            told: Vec::new(),
            shown: 0,
        }
    }

    fn picture(&mut self, picture: Picture, again: bool) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        match self.format {
            Format::Json => {
                for record in picture.records() {
                    json::line(&mut out, &record)?;
                }
            }
            Format::Table => {
                if again && io::stdout().is_terminal() {
                    // To the top left, and nothing below.
                    out.write_all(b"\x1b[H\x1b[2J")?;
                } else if self.shown > 0 {
                    out.write_all(b"\n")?;
                }
                picture.write(&mut out, output::layout(self.color))?;
                out.flush()?;
                self.lacks(picture.lacks);
            }
        }
        self.shown += 1;
        out.flush()
    }

    /// Once, unless something else is missing now. One line for all that is missing for the same reason.
    fn lacks(&mut self, lacks: Vec<Lack>) {
        if lacks == self.told {
            return;
        }
        for (at, lack) in lacks.iter().enumerate() {
            let same = |other: &&Lack| (&other.why, &other.fix) == (&lack.why, &lack.fix);
            if lacks.iter().take(at).any(|other| same(&other)) {
                continue;
            }
            let what: Vec<&str> = lacks.iter().filter(same).map(|l| l.what.as_str()).collect();
            output::say(&format!(
                "not known: {}: {}: {}",
                what.join("; "),
                lack.why,
                lack.fix
            ));
        }
        self.told = lacks;
    }
}
