// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the engine needs of a machine: is there a driver, attach to it, what time is it. The machine is the running one,
//! a recording of one (`recorded.rs`), or a script of records for tests; `capture.rs` makes the recording.

use std::cell::Cell;
use std::future::Future;
use std::path::PathBuf;

use anyhow::{anyhow, Context as _};

use crate::event::{split, time_of};
use crate::kfd::{boottime_ns, module, Root};
use crate::source::permission::Capabilities;
use crate::source::symbols::Symbols;
use crate::source::{
    self, Attach, Counters, Driver, Live, LiveError, LiveOptions, ProbeSet, Startup,
};

/// Where records come from. Dropping it detaches the probes.
pub trait Source {
    /// What was found at the start.
    fn startup(&self) -> &Startup;
    /// Forgets records made while it was being attached: they lack what the probes attached last add.
    fn settle(&mut self);
    /// Waits until there are records, then hands over all of them. Cancel-safe.
    ///
    /// # Errors
    /// When there can be no more.
    fn read(&mut self, each: &mut dyn FnMut(&[u8])) -> impl Future<Output = anyhow::Result<Read>>;
    /// Hands over what is there, without waiting.
    fn drain(&mut self, each: &mut dyn FnMut(&[u8]));
    /// Counts since the start.
    fn counters(&self) -> Counters;
    /// Whether what it tells can be trusted.
    ///
    /// # Errors
    /// When it cannot: everything since the start may be wrong.
    fn verify(&self) -> Result<(), LiveError>;
}

/// What a read of a source came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Records came, and more may.
    Records,
    /// Something else came that the host tells: other counts, another time.
    Other,
    /// The source has ended.
    Ended,
}

/// A machine.
pub trait Host {
    /// Its sources.
    type Source: Source;
    /// The driver, now.
    fn driver(&self) -> Driver;
    /// Attaches to the driver.
    ///
    /// # Errors
    /// See [`LiveError`].
    fn attach(&self) -> Result<Self::Source, LiveError>;
    /// CLOCK_BOOTTIME.
    fn now_ns(&self) -> u64;
    /// The wall clock of the same moment, in nanoseconds since 1970.
    fn unix_ns(&self) -> u64 {
        super::session::unix_ns()
    }
    /// CLOCK_BOOTTIME without the machine at hand; 0 for one whose clock is a file's.
    fn clock() -> u64 {
        0
    }
    /// Where its /sys and /proc are.
    fn root(&self) -> &Root;
    /// Whether nothing more will ever happen on it.
    fn ended(&self) -> bool {
        false
    }
}

/// The running machine, or for tests one of which only /sys and /proc exist, below another root.
#[derive(Debug)]
pub struct LiveHost {
    root: Root,
    options: LiveOptions,
    attach: Attach,
}

impl LiveHost {
    /// With /sys and /proc below `root`.
    #[must_use]
    pub fn new(root: Root, options: LiveOptions, attach: Attach) -> Self {
        Self {
            root,
            options,
            attach,
        }
    }
}

impl Source for Live {
    fn startup(&self) -> &Startup {
        self.startup()
    }

    fn settle(&mut self) {
        self.drain(&mut |_| {});
    }

    async fn read(&mut self, each: &mut dyn FnMut(&[u8])) -> anyhow::Result<Read> {
        self.read(each).await?;
        Ok(Read::Records)
    }

    fn drain(&mut self, each: &mut dyn FnMut(&[u8])) {
        self.drain(each);
    }

    fn counters(&self) -> Counters {
        self.counters()
    }

    fn verify(&self) -> Result<(), LiveError> {
        self.verify()
    }
}

impl Host for LiveHost {
    type Source = Live;

    fn driver(&self) -> Driver {
        if self.root.is_real() {
            source::driver()
        } else {
            driver_below(&self.root)
        }
    }

    fn attach(&self) -> Result<Live, LiveError> {
        if self.root.is_real() {
            return Live::start_with(&self.options, self.attach);
        }
        check_capabilities(&self.root)?;
        Err(anyhow!("nothing to attach to below --root: give --script").into())
    }

    fn now_ns(&self) -> u64 {
        Self::clock()
    }

    fn clock() -> u64 {
        boottime_ns()
    }

    fn root(&self) -> &Root {
        &self.root
    }
}

/// A machine whose records are in a file, one after the other as they would lie in the ring. They are read at once; then
/// nothing happens. The clock shows the time of the first record, and of the last one when that is read.
#[derive(Debug)]
pub struct ScriptHost {
    root: Root,
    script: PathBuf,
    now_ns: std::rc::Rc<Cell<u64>>,
}

/// Records of a file.
#[derive(Debug)]
pub struct Script {
    startup: Startup,
    bytes: Vec<u8>,
    at: usize,
    written: u64,
    now_ns: std::rc::Rc<Cell<u64>>,
}

impl ScriptHost {
    /// Records of `script`, /sys and /proc below `root`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(root: Root, script: PathBuf) -> anyhow::Result<Self> {
        let bytes = read_script(&script)?;
        let first = time_of(&bytes).unwrap_or(0);
        Ok(Self {
            root,
            script,
            now_ns: std::rc::Rc::new(Cell::new(first)),
        })
    }
}

impl Host for ScriptHost {
    type Source = Script;

    fn driver(&self) -> Driver {
        driver_below(&self.root)
    }

    fn attach(&self) -> Result<Script, LiveError> {
        check_capabilities(&self.root)?;
        let bytes = read_script(&self.script)?;
        let startup = Startup {
            kernel: self
                .root
                .text("/proc/sys/kernel/osrelease")
                .unwrap_or_default(),
            module: "amdgpu".to_owned(),
            module_version: module::loaded(&self.root).and_then(|module| module.version),
            offsets: "script".to_owned(),
            probes: source::plan::resolve(&Symbols::default(), ProbeSet::Full)
                .iter()
                .map(|planned| planned.to_probe(true, None))
                .collect(),
            ring_bytes: 0,
        };
        Ok(Script {
            startup,
            bytes,
            at: 0,
            written: 0,
            now_ns: std::rc::Rc::clone(&self.now_ns),
        })
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn root(&self) -> &Root {
        &self.root
    }
}

impl Source for Script {
    fn startup(&self) -> &Startup {
        &self.startup
    }

    fn settle(&mut self) {}

    async fn read(&mut self, each: &mut dyn FnMut(&[u8])) -> anyhow::Result<Read> {
        if self.at >= self.bytes.len() {
            std::future::pending().await
        }
        self.drain(each);
        Ok(Read::Records)
    }

    fn drain(&mut self, each: &mut dyn FnMut(&[u8])) {
        while let Some((record, _)) = self.bytes.get(self.at..).and_then(split) {
            if let Some(ts_ns) = time_of(record) {
                self.now_ns.set(ts_ns);
            }
            each(record);
            self.at += record.len();
            self.written += 1;
        }
    }

    fn counters(&self) -> Counters {
        Counters {
            written: self.written,
            ..Counters::default()
        }
    }

    fn verify(&self) -> Result<(), LiveError> {
        Ok(())
    }
}

fn read_script(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read the script {}", path.display()))
}

fn check_capabilities(root: &Root) -> Result<(), LiveError> {
    let missing =
        Capabilities::parse(&root.text("/proc/self/status").unwrap_or_default()).missing();
    if missing.is_empty() {
        return Ok(());
    }
    Err(LiveError::NoPermission {
        capability: missing.join(" and "),
    })
}

fn driver_below(root: &Root) -> Driver {
    match module::loaded(root) {
        Some(module) => Driver::Loaded {
            module: "amdgpu".to_owned(),
            version: module.version,
            identity: 0,
        },
        None => Driver::Absent,
    }
}
