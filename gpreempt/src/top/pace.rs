// SPDX-License-Identifier: MIT OR Apache-2.0
//! A recording in its own time: records are handed over when the clock that plays it comes to them. It can be stopped and run
//! faster or slower; it does not go back.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::{Host, Read, Source};
use crate::event::time_of;
use crate::kfd::Root;
use crate::source::{Counters, Driver, LiveError, Startup};

/// A change of speed is noticed after so long at most.
const GLANCE: Duration = Duration::from_millis(100);

/// Records of so long are handed over at once, as the kernel's side wakes a reader once for many: the screen is drawn once a second,
/// and a thread that wakes up for each of a thousand records a second does little else.
const GRAIN: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
struct Dial {
    start_ns: u64,
    /// It showed this,
    base_ns: u64,
    /// then.
    since: Instant,
    speed: f64,
    stopped: bool,
}

impl Dial {
    fn at(&self, now: Instant) -> u64 {
        if self.stopped {
            return self.base_ns;
        }
        let passed = now.duration_since(self.since).as_nanos() as f64 * self.speed;
        self.base_ns.saturating_add(passed as u64)
    }
}

/// The clock of a recording.
#[derive(Clone, Debug)]
pub(super) struct Clock(Arc<Mutex<Dial>>);

impl Clock {
    /// Stopped at 0.
    pub(super) fn new(speed: f64) -> Self {
        Self(Arc::new(Mutex::new(Dial {
            start_ns: 0,
            base_ns: 0,
            since: Instant::now(),
            speed,
            stopped: true,
        })))
    }

    fn dial(&self) -> MutexGuard<'_, Dial> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, start_ns: u64) {
        let mut dial = self.dial();
        dial.start_ns = start_ns;
        dial.base_ns = start_ns;
        dial.since = Instant::now();
        dial.stopped = false;
    }

    /// Goes on at another speed, or not.
    pub(super) fn set(&self, speed: f64, stopped: bool) {
        let mut dial = self.dial();
        let now = Instant::now();
        dial.base_ns = dial.at(now);
        dial.since = now;
        dial.speed = speed;
        dial.stopped = stopped;
    }

    /// The time that it shows.
    pub(super) fn now_ns(&self) -> u64 {
        self.dial().at(Instant::now())
    }

    /// Since the start of the recording.
    pub(super) fn played_ns(&self) -> u64 {
        let dial = self.dial();
        dial.at(Instant::now()).saturating_sub(dial.start_ns)
    }

    /// When it comes to the end, it stays there.
    fn stop_at(&self, end_ns: u64) {
        let mut dial = self.dial();
        dial.base_ns = dial.at(Instant::now()).min(end_ns);
        dial.stopped = true;
    }

    /// Waits until it shows this.
    async fn comes_to(&self, ts_ns: u64) {
        loop {
            let (left_ns, speed) = {
                let dial = self.dial();
                let left_ns = ts_ns.saturating_sub(dial.at(Instant::now()));
                (left_ns, if dial.stopped { 0.0 } else { dial.speed })
            };
            if left_ns == 0 {
                return;
            }
            let wait = Duration::try_from_secs_f64(left_ns as f64 / 1e9 / speed).unwrap_or(GLANCE);
            tokio::time::sleep(wait.clamp(GRAIN, GLANCE)).await;
        }
    }
}

/// What is told when the files of the machine have changed.
pub(super) type Settled = Rc<dyn Fn(&Root)>;

/// A host whose records come in their own time.
pub(super) struct PacedHost<H> {
    host: Rc<H>,
    clock: Clock,
    settled: Settled,
}

impl<H: Host> PacedHost<H> {
    pub(super) fn new(host: H, clock: Clock, settled: Settled) -> Self {
        clock.start(host.now_ns());
        Self {
            host: Rc::new(host),
            clock,
            settled,
        }
    }
}

/// Its source.
pub(super) struct PacedSource<H: Host> {
    source: H::Source,
    host: Rc<H>,
    clock: Clock,
    settled: Settled,
    /// Read, but not due.
    records: VecDeque<Vec<u8>>,
    /// Files of this time were read: the machine looks otherwise from then on.
    changed_ns: Option<u64>,
    ended: bool,
}

impl<H: Host> Host for PacedHost<H> {
    type Source = PacedSource<H>;

    fn driver(&self) -> Driver {
        self.host.driver()
    }

    fn attach(&self) -> Result<PacedSource<H>, LiveError> {
        let source = self.host.attach()?;
        (self.settled)(self.host.root());
        Ok(PacedSource {
            source,
            host: Rc::clone(&self.host),
            clock: self.clock.clone(),
            settled: Rc::clone(&self.settled),
            records: VecDeque::new(),
            changed_ns: None,
            ended: false,
        })
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn root(&self) -> &Root {
        self.host.root()
    }

    fn ended(&self) -> bool {
        self.host.ended()
    }
}

impl<H: Host> PacedSource<H> {
    /// Hands over what is due.
    fn due(&mut self, each: &mut dyn FnMut(&[u8])) {
        let now_ns = self.clock.now_ns();
        while let Some(record) = self.records.front() {
            if time_of(record).is_some_and(|ts_ns| ts_ns > now_ns) {
                return;
            }
            each(record);
            self.records.pop_front();
        }
    }
}

impl<H: Host> Source for PacedSource<H> {
    fn startup(&self) -> &Startup {
        self.source.startup()
    }

    fn settle(&mut self) {
        self.source.settle();
    }

    async fn read(&mut self, each: &mut dyn FnMut(&[u8])) -> anyhow::Result<Read> {
        loop {
            if let Some(changed_ns) = self
                .changed_ns
                .filter(|_| !self.records.is_empty() || self.ended)
            {
                self.clock.comes_to(changed_ns).await;
                self.changed_ns = None;
                (self.settled)(self.host.root());
            }
            if let Some(record) = self.records.front() {
                self.clock.comes_to(time_of(record).unwrap_or(0)).await;
                self.due(each);
                return Ok(Read::Records);
            }
            if self.ended {
                let end_ns = self.host.now_ns();
                self.clock.comes_to(end_ns).await;
                self.clock.stop_at(end_ns);
                return Ok(Read::Ended);
            }
            let records = &mut self.records;
            match self
                .source
                .read(&mut |bytes| records.push_back(bytes.to_vec()))
                .await?
            {
                Read::Records => {}
                Read::Other => {
                    self.changed_ns = Some(self.host.now_ns());
                    return Ok(Read::Other);
                }
                Read::Ended => self.ended = true,
            }
        }
    }

    fn drain(&mut self, each: &mut dyn FnMut(&[u8])) {
        self.source.drain(each);
    }

    fn counters(&self) -> Counters {
        self.source.counters()
    }

    fn verify(&self) -> Result<(), LiveError> {
        self.source.verify()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Cursor;

    use super::*;
    use crate::engine::RecordedHost;
    use crate::recording::{Attached, Reader, Snapped, Writer};

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_stopped_clock_stays_and_speed_counts_from_now_on() {
        let then = Instant::now();
        let dial = |speed, stopped| Dial {
            start_ns: 0,
            base_ns: 100,
            since: then,
            speed,
            stopped,
        };
        let later = then + Duration::from_secs(2);
        assert_eq!(dial(1.0, true).at(later), 100);
        assert_eq!(dial(4.0, false).at(later), 8_000_000_100);
        assert_eq!(dial(0.5, false).at(later), 1_000_000_100);
    }

    /// A header alone, of no known kind.
    fn record(ts_ns: u64) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[..8].copy_from_slice(&ts_ns.to_ne_bytes());
        bytes[16..18].copy_from_slice(&40_u16.to_ne_bytes());
        bytes
    }

    /// Records at 10 s, 11 s and 70 s, a picture before and one at 40 s; it ends at 100 s.
    fn recording() -> RecordedHost {
        let mut writer = Writer::new(Vec::new(), 1).unwrap();
        let startup = Startup {
            kernel: "6.12.95".to_owned(),
            module: "amdgpu".to_owned(),
            module_version: None,
            offsets: "btf".to_owned(),
            probes: Vec::new(),
            ring_bytes: 4096,
        };
        let ts_ns = 5 * S;
        writer
            .attached(&Attached {
                ts_ns,
                unix_ns: 0,
                startup,
            })
            .unwrap();
        writer.snapshot(Snapped::at(ts_ns)).unwrap();
        writer.file("/proc/7/comm", b"before\n").unwrap();
        writer.record(&record(10 * S));
        writer.record(&record(11 * S));
        writer.flush().unwrap();
        writer.snapshot(Snapped::at(40 * S)).unwrap();
        writer.file("/proc/7/comm", b"after\n").unwrap();
        writer.record(&record(70 * S));
        let (bytes, _) = writer.finish(100 * S).unwrap();
        let reader = Reader::new(Cursor::new(bytes), "a.gpr".to_owned()).unwrap();
        RecordedHost::new(reader, None).unwrap()
    }

    /// What is handed over and told, in order, each with whether its time had come.
    #[tokio::test]
    async fn records_and_pictures_come_when_the_clock_comes_to_them() {
        let clock = Clock::new(1024.0);
        let told: Rc<RefCell<Vec<(String, bool)>>> = Rc::default();
        let (log, time) = (Rc::clone(&told), clock.clone());
        let settled = move |root: &Root| {
            let name = root.text("/proc/7/comm").unwrap();
            let due = name == "before" || time.now_ns() >= 40 * S;
            log.borrow_mut().push((name, due));
        };
        let host = PacedHost::new(recording(), clock.clone(), Rc::new(settled));
        let mut source = host.attach().unwrap();
        loop {
            let mut handed = |bytes: &[u8]| {
                let ts_ns = time_of(bytes).unwrap();
                let due = clock.now_ns() >= ts_ns;
                told.borrow_mut().push(((ts_ns / S).to_string(), due));
            };
            if source.read(&mut handed).await.unwrap() == Read::Ended {
                break;
            }
        }
        let expected = ["before", "10", "11", "after", "70"].map(|what| (what.to_owned(), true));
        assert_eq!(*told.borrow(), expected);
        assert_eq!(clock.now_ns(), 100 * S, "it stays at the end");
    }

    #[tokio::test]
    async fn nothing_comes_while_it_is_stopped() {
        let clock = Clock::new(1024.0);
        let host = PacedHost::new(recording(), clock.clone(), Rc::new(|_: &Root| {}));
        let mut source = host.attach().unwrap();
        clock.set(1024.0, true);
        let shown = clock.now_ns();
        let mut count = 0;
        let reading =
            async { while source.read(&mut |_| count += 1).await.unwrap() != Read::Ended {} };
        tokio::select! {
            () = reading => panic!("it came to the end"),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        assert_eq!(clock.now_ns(), shown);
        assert!(count <= 2, "what was due before it was stopped");
    }
}
