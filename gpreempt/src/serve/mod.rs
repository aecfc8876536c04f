// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon: decides by a policy who is held, and holds them.
//!
//! ```text
//! events of the driver --watcher--+
//! indices of queues --activity----+--> controller: jobs, hints --policy--> decision --hands--> backends of `control`
//! calls on the socket --http------+       |                                               (leases, what was seen)
//!                                         +--> audit log, metrics
//! ```
//!
//! Three threads: one serves the socket and handles signals, one reads events, one decides and acts. What the last one holds
//! ends with it: by the kernel on a patched driver, by a supervisor process otherwise.

mod access;
mod activity;
pub mod api;
mod audit;
mod calls;
pub mod client;
mod controller;
mod hands;
mod hints;
mod http;
mod jobs;
mod metrics;
mod openapi;
mod settings;
mod watcher;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, Context as _};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::oneshot;

pub use audit::{AuditRecord, Line};
pub use openapi::document;

use crate::kfd::{boottime_ns, Root};
use crate::policy::PolicyName;
use controller::{Controller, Message};
use metrics::Metrics;
use settings::Settings;

/// How to serve.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Files of the configuration, or directories of such; the later counts.
    pub config: Vec<PathBuf>,
    /// Counts above them.
    pub policy: Option<PolicyName>,
    /// Counts above them.
    pub socket: Option<PathBuf>,
    /// Decide, and act on nothing.
    pub dry_run: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// By this signal; what was held runs.
    Signal(i32),
}

/// Why it cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error("{0:#}")]
    Config(anyhow::Error),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// A message for people, who read it in the journal.
fn say(message: &str) {
    eprintln!("gpreempt: {message}");
}

/// Serves until a signal ends it.
///
/// # Errors
/// The configuration cannot be used, or the socket cannot be had. When the controller dies, too: the process must end then, so
/// that whoever restarts what it held does.
pub fn run(root: &Root, options: &Options) -> Result<Finish, Error> {
    let settings = Settings::load(&options.config, options.policy).map_err(Error::Config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    Ok(runtime.block_on(serve(root, settings, options))?)
}

async fn serve(root: &Root, settings: Settings, options: &Options) -> anyhow::Result<Finish> {
    let mut ending = Signals::new().context("cannot handle signals")?;
    let config = &settings.config;
    let socket = options
        .socket
        .clone()
        .unwrap_or_else(|| config.serve.socket.clone());
    let listener = http::bind(&socket)?;
    let unlinked = Unlink(socket.clone());
    let metrics = Arc::new(Metrics::new());
    if let Some(address) = config.metrics.listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot serve metrics on {address}"))?;
        tokio::spawn(http::serve_metrics(listener, Arc::clone(&metrics)));
    }
    let heartbeat = Arc::new(AtomicU64::new(boottime_ns()));
    let (to, messages) = channel();
    let (policy, dry) = (config.policy.name, options.dry_run);
    let (done, mut ended) = oneshot::channel::<()>();
    let thread = {
        let (root, metrics, heartbeat) =
            (root.clone(), Arc::clone(&metrics), Arc::clone(&heartbeat));
        std::thread::Builder::new()
            .name("controller".to_owned())
            .spawn(move || {
                // Dropped when the thread ends, however it does.
                let _done = done;
                Controller::new(root, settings, dry, metrics, heartbeat).run(&messages);
            })
            .context("cannot start a thread")?
    };
    watcher::start(root, to.clone()).context("cannot start a thread")?;
    tokio::spawn(http::serve(listener, http::Api::new(to.clone(), metrics)));
    say(&format!(
        "serving on {}, policy {policy}{}",
        socket.display(),
        if dry {
            ", dry run: nothing is held"
        } else {
            ""
        }
    ));
    notify(&[NotifyState::Ready]);
    let mut watchdog = Watchdog::new(heartbeat);
    let number = loop {
        tokio::select! {
            number = ending.next(&to) => break number,
            _ = &mut ended => return Err(anyhow!("the controller has ended: see above; what was held runs again")),
            () = watchdog.pat() => {}
        }
    };
    notify(&[NotifyState::Stopping]);
    // It may be waiting for a GPU.
    let _ = to.send(Message::End(format!("signal {number}")));
    let _ = ended.await;
    drop(unlinked);
    match thread.join() {
        Ok(()) => Ok(Finish::Signal(number)),
        Err(_) => Err(anyhow!("the controller ended badly: see above")),
    }
}

/// systemd, if it started us, reads this.
fn notify(state: &[NotifyState<'_>]) {
    // Nobody may be listening.
    let _ = sd_notify::notify(state);
}

/// The socket's file goes with the daemon.
struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Tells systemd that the controller lives, as long as it does.
struct Watchdog {
    every: Option<Duration>,
    heartbeat: Arc<AtomicU64>,
}

/// A controller that was not heard of for so long hangs, or waits for a GPU that does: the driver's own limit is 9 s for each.
const SILENT: Duration = Duration::from_secs(30);

impl Watchdog {
    fn new(heartbeat: Arc<AtomicU64>) -> Self {
        Self {
            every: sd_notify::watchdog_enabled().map(|limit| limit / 3),
            heartbeat,
        }
    }

    async fn pat(&mut self) {
        let Some(every) = self.every else {
            return std::future::pending().await;
        };
        tokio::time::sleep(every).await;
        let heard_ns = self.heartbeat.load(Ordering::Relaxed);
        let silent = Duration::from_nanos(boottime_ns().saturating_sub(heard_ns));
        if silent < SILENT {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

struct Signals {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// The signal that ends the daemon. SIGHUP has the configuration read again.
    async fn next(&mut self, to: &Sender<Message>) -> i32 {
        loop {
            tokio::select! {
                _ = self.int.recv() => return libc::SIGINT,
                _ = self.term.recv() => return libc::SIGTERM,
                _ = self.hup.recv() => {
                    notify(&[NotifyState::Reloading]);
                    let _ = to.send(Message::Reload);
                    notify(&[NotifyState::Ready]);
                }
            }
        }
    }
}
