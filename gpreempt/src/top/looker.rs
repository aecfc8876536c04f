// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that takes pictures. One takes tens of milliseconds where the hardware's slots are read, and for ever where the driver
//! hangs with its lock held: keys must not wait for it. No more than one picture is being taken at a time.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver};

use crate::kfd::snapshot::Snapshot;

/// A picture that takes longer is told.
const LATE: Duration = Duration::from_secs(2);

/// How long the end of the program waits for a picture that is being taken.
const PATIENCE: Duration = Duration::from_millis(500);

/// A picture.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) picture: Snapshot,
    pub(super) begun_ns: u64,
    pub(super) done_ns: u64,
}

/// The thread.
pub(super) struct Looker {
    /// Whether slots are wanted.
    asks: std::sync::mpsc::Sender<bool>,
    taken: UnboundedReceiver<Taken>,
    /// What the picture that is being taken was asked for, and when.
    asked: Option<(bool, Instant)>,
    /// Asked for another one meanwhile, of another kind.
    next: Option<bool>,
}

impl Looker {
    /// Starts the thread, which waits.
    pub(super) fn start(mut take: impl FnMut(bool) -> Taken + Send + 'static) -> io::Result<Self> {
        let (asks, asked) = std::sync::mpsc::channel();
        let (give, taken) = unbounded_channel();
        thread::Builder::new()
            .name("gpreempt-look".to_owned())
            .spawn(move || {
                // It ends with those that ask, or with those that listen.
                for slots in asked {
                    if give.send(take(slots)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            asks,
            taken,
            asked: None,
            next: None,
        })
    }

    /// Asks for a picture. While one is being taken, only one of another kind comes after it.
    pub(super) fn ask(&mut self, slots: bool) {
        match self.asked {
            Some((now, _)) => self.next = (now != slots).then_some(slots),
            None => {
                self.asked = Some((slots, Instant::now()));
                // If the thread is gone, `taken` tells.
                let _ = self.asks.send(slots);
            }
        }
    }

    /// The picture that was asked for; `None` = the thread panicked.
    pub(super) async fn taken(&mut self) -> Option<Taken> {
        let taken = self.taken.recv().await?;
        self.asked = None;
        if let Some(slots) = self.next.take() {
            self.ask(slots);
        }
        Some(taken)
    }

    /// How long a picture is being taken, if that is long.
    pub(super) fn late(&self) -> Option<Duration> {
        let (_, since) = self.asked?;
        Some(since.elapsed()).filter(|late| *late >= LATE)
    }

    /// Ends the thread; one that waits for the driver is left to the end of the program.
    pub(super) async fn stop(mut self) {
        drop(self.asks);
        let ended = async { while self.taken.recv().await.is_some() {} };
        let _ = tokio::time::timeout(PATIENCE, ended).await;
    }
}

/// The same, and for ever where nobody takes pictures.
pub(super) async fn taken_by(looker: Option<&mut Looker>) -> Option<Taken> {
    match looker {
        Some(looker) => looker.taken().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn picture(slots: bool) -> Taken {
        Taken {
            picture: Snapshot::default(),
            begun_ns: u64::from(slots),
            done_ns: 0,
        }
    }

    #[tokio::test]
    async fn one_picture_at_a_time() {
        let (go, gate) = channel::<()>();
        let (tell, begun) = channel();
        let mut looker = Looker::start(move |slots| {
            tell.send(slots).unwrap();
            gate.recv().unwrap();
            picture(slots)
        })
        .unwrap();
        for _ in 0..5 {
            looker.ask(false);
        }
        assert_eq!(begun.recv(), Ok(false));
        assert_eq!(looker.late(), None);
        // Of another kind, then not: the one that comes is that.
        looker.ask(true);
        looker.ask(false);
        go.send(()).unwrap();
        assert_eq!(looker.taken().await.unwrap().begun_ns, 0);
        assert!(looker.asked.is_none(), "nothing more was wanted");
        looker.ask(false);
        looker.ask(true);
        assert_eq!(begun.recv(), Ok(false));
        go.send(()).unwrap();
        looker.taken().await.unwrap();
        assert_eq!(begun.recv(), Ok(true));
        go.send(()).unwrap();
        assert_eq!(looker.taken().await.unwrap().begun_ns, 1);
        assert!(
            begun.try_recv().is_err(),
            "five were asked for, three taken"
        );
        looker.stop().await;
        assert!(begun.recv().is_err(), "the thread has ended");
    }

    #[tokio::test]
    async fn a_panic_is_told() {
        let mut looker = Looker::start(|_| panic!("as it should")).unwrap();
        looker.ask(false);
        assert!(looker.taken().await.is_none());
    }

    #[tokio::test]
    async fn a_picture_that_never_comes_does_not_keep_the_program() {
        let (go, gate) = channel::<()>();
        let mut looker = Looker::start(move |slots| {
            let _ = gate.recv();
            picture(slots)
        })
        .unwrap();
        looker.ask(false);
        looker.asked = looker
            .asked
            .map(|(slots, since)| (slots, since.checked_sub(LATE).unwrap()));
        assert!(looker.late().is_some());
        let begun = Instant::now();
        looker.stop().await;
        assert!(begun.elapsed() < 4 * PATIENCE, "{:?}", begun.elapsed());
        drop(go);
    }
}
