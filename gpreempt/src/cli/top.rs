// SPDX-License-Identifier: MIT OR Apache-2.0
//! `top`: the queues on a full screen.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;

use super::probes::Probes;
use super::watch::duration;
use super::{Exit, Failure, Global};
use crate::engine::{Host as _, LiveHost, RecordedHost};
use crate::inspect;
use crate::kfd::module;
use crate::source::Driver;
use crate::top::{self, Error, Finish, Options};

/// Show queues, processes and GPUs on a full screen, as they change
///
/// Every queue with its state, depth and rate, how often it was taken off the GPU and how long it was off; every GPU with its
/// slots, and who oversubscribes it. Keys are those of htop; F1 lists them. Never opens /dev/kfd. Without the permission to
/// watch events it shows what sysfs gives, and says so.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Top {
    /// How often it looks: seconds, or 250ms, 5s
    #[arg(long, default_value = "1s", value_parser = interval, value_name = "DURATION")]
    interval: Duration,
    /// End after that long
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// Play a recording so many times as fast as it was; only with `replay`
    #[arg(long, value_parser = speed, value_name = "N")]
    speed: Option<f64>,
    #[command(flatten)]
    probes: Probes,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt top
  gpreempt replay night.gpr top --speed 60

Keys: F1 help, F3 / search, F4 filter, F5 tree, F6 < > sort, I invert, Enter details of a queue,
  g one GPU, f findings, Space pause, q quit";

/// Below this, looking costs more than what is seen.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < LEAST_INTERVAL {
        return Err("expected 100ms or more".to_owned());
    }
    Ok(interval)
}

fn speed(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|speed| (0.0625..=1024.0).contains(speed))
        .ok_or_else(|| "expected a number from 0.0625 to 1024".to_owned())
}

impl Top {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        if self.speed.is_some() {
            let error = anyhow!("--speed is of recordings: gpreempt replay FILE top --speed N");
            return Err(Failure::new(Exit::Usage, error));
        }
        let options = self.options(global);
        inspect::use_offsets(self.probes.offsets());
        let root = global.root();
        let live = self.probes.live_options();
        let attach = self.probes.attach();
        let host = LiveHost::new(root.clone(), live.clone(), attach);
        if host.driver() == Driver::Absent {
            let absent = module::absent(&root);
            let error = anyhow!("{}: {}", absent.why, absent.fix);
            return Err(Failure::new(Exit::Unavailable, error));
        }
        finish(top::live(
            root,
            move |root| LiveHost::new(root, live, attach),
            options,
        ))
    }

    /// The same of a recording.
    pub(super) fn replay(self, file: &Path, global: &Global) -> Result<Exit, Failure> {
        // A file that is none is told before the screen is taken.
        drop(RecordedHost::open(file, None)?);
        let options = self.options(global);
        finish(top::recorded(file, self.speed.unwrap_or(1.0), options))
    }

    fn options(&self, global: &Global) -> Options {
        Options {
            interval: self.interval,
            duration: self.duration,
            color: global.color.on_stdout(),
        }
    }
}

fn finish(finish: Result<Finish, Error>) -> Result<Exit, Failure> {
    match finish {
        Ok(Finish::Quit) => Ok(Exit::Ok),
        Ok(Finish::Signal(signal)) => Ok(Exit::signal(signal)),
        Err(error @ Error::NoTerminal) => Err(Failure::new(Exit::Usage, error)),
        Err(error) => Err(Failure::new(Exit::Failed, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_and_speeds_have_limits() {
        assert_eq!(interval("0.25"), Ok(Duration::from_millis(250)));
        assert!(interval("10ms").is_err());
        assert_eq!(speed("60"), Ok(60.0));
        for wrong in ["0", "-1", "nan", "inf", "fast"] {
            assert!(speed(wrong).is_err(), "{wrong}");
        }
    }
}
