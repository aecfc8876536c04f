// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ctl` writes: tables for people, the daemon's own objects for programs. Names come from others and are escaped.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;

use super::output::Format;
use crate::event::{Escaped, Pid};
use crate::policy::{Class, Explanation, JobId};
use crate::serve::api::{Asked, Done, JobInfo, QueueInfo, Setting, Status};
use crate::sink::json;
use crate::sink::table::{strong, Layout};
use crate::sink::units::Nanos;

/// To stdout.
#[derive(Clone, Copy)]
pub(super) struct Show {
    pub(super) format: Format,
    pub(super) layout: Layout,
}

impl Show {
    pub(super) fn json(self, object: &impl Serialize) -> io::Result<()> {
        json::line(&mut io::stdout().lock(), object)
    }

    fn lines(self, objects: &[impl Serialize]) -> io::Result<()> {
        objects.iter().try_for_each(|object| self.json(object))
    }

    /// The object, or the text that says the same.
    fn one(self, object: &impl Serialize, text: impl FnOnce() -> String) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(object),
            Format::Table => io::stdout().lock().write_all(text().as_bytes()),
        }
    }

    fn many(self, objects: &[impl Serialize], text: impl FnOnce() -> String) -> io::Result<()> {
        match self.format {
            Format::Json => self.lines(objects),
            Format::Table => io::stdout().lock().write_all(text().as_bytes()),
        }
    }

    fn title(self, text: &str) -> String {
        strong(text, self.layout)
    }

    pub(super) fn status(self, status: &Status) -> io::Result<()> {
        self.one(status, || {
            let mut text = String::new();
            let up = status.now_ns.saturating_sub(status.since_ns);
            let dry = if status.dry_run {
                ", dry run: nothing is held"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "{} {}, process {}, up {}{dry}",
                self.title("gpreempt"),
                Escaped(status.version.as_bytes()),
                status.pid,
                Nanos(up)
            );
            let _ = writeln!(text, "policy   {}", status.policy);
            let backend = status.backend.map_or("none in use", |kind| kind.name());
            let _ = writeln!(
                text,
                "backend  {backend}: {}",
                Escaped(status.backend_why.as_bytes())
            );
            let why = status
                .events_why
                .as_deref()
                .unwrap_or("all probes are attached");
            let how = if status.events { "seen" } else { "not seen" };
            let _ = writeln!(
                text,
                "events   {how}: {}; {} lost",
                Escaped(why.as_bytes()),
                status.lost_total
            );
            let jobs: Vec<String> = status
                .jobs_by_class
                .iter()
                .map(|(class, jobs)| format!("{jobs} {}", Escaped(class.as_bytes())))
                .collect();
            let jobs = if jobs.is_empty() {
                "none".to_owned()
            } else {
                jobs.join(", ")
            };
            let _ = writeln!(
                text,
                "jobs     {jobs}; {} held now; {} hints in force",
                status.jobs_held, status.hints
            );
            let _ = writeln!(
                text,
                "so far   {} holds, {} releases, {} refused, {} denied by guards",
                status.holds_total,
                status.releases_total,
                status.refusals_total,
                status.denials_total
            );
            for of in &status.reservations {
                let what = match (&of.error, of.slots_total) {
                    (Some(error), _) => {
                        format!("no slots reserved: {}", Escaped(error.as_bytes()))
                    }
                    (None, Some(total)) => format!(
                        "{} of {total} slots left free by {} offline processes",
                        of.slots_reserved, of.processes
                    ),
                    (None, None) => "nobody is offline, no slots reserved".to_owned(),
                };
                let _ = writeln!(text, "GPU {} {what}", of.gpu_id);
            }
            if let Some(latency) = status.hold_latency_ns {
                let _ = writeln!(
                    text,
                    "a stop   takes {} (median of the last)",
                    Nanos(latency)
                );
            }
            if status.hung {
                text +=
                    "HUNG     a GPU did not answer: nothing is held until `gpreempt ctl go-on`\n";
            }
            text
        })
    }

    pub(super) fn jobs(self, jobs: &[JobInfo]) -> io::Result<()> {
        self.many(jobs, || {
            let head = format!(
                "{:24} {:8} {:5} {:>9} {:>6} {:>9} {:>9} {:>6} WHY",
                "JOB", "CLASS", "STATE", "PROCESSES", "QUEUES", "RUN", "HELD", "HOLDS"
            );
            let mut text = self.title(&head) + "\n";
            for job in jobs {
                let why = match (&job.why, job.rule, job.registered) {
                    (Some(why), ..) => why.clone(),
                    (None, _, true) => "registered itself".to_owned(),
                    (None, Some(rule), _) => format!("rule {rule}"),
                    (None, None, _) => "no rule matches".to_owned(),
                };
                let _ = writeln!(
                    text,
                    "{:24} {:8} {:5} {:>9} {:>6} {:>9} {:>9} {:>6} {}",
                    name(&job.job),
                    job.class.name(),
                    if job.held { "held" } else { "runs" },
                    job.pids.len(),
                    job.queues,
                    Nanos(job.run_ns).to_string(),
                    Nanos(job.paused_ns).to_string(),
                    job.holds,
                    Escaped(why.as_bytes())
                );
            }
            text
        })
    }

    pub(super) fn queues(self, queues: &[QueueInfo]) -> io::Result<()> {
        self.many(queues, || {
            let head = format!(
                "{:24} {:>6} {:10} {:8} {:5} JOB",
                "PROCESS", "GPU", "QUEUE", "CLASS", "STATE"
            );
            let mut text = self.title(&head) + "\n";
            for queue in queues {
                let comm = queue.comm.as_deref().unwrap_or("?");
                let _ = writeln!(
                    text,
                    "{:24} {:>6} {:10} {:8} {:5} {}",
                    format!("{}[{}]", Escaped(comm.as_bytes()), queue.pid),
                    queue.gpu_id.to_string(),
                    format!("{} {}", queue.queue_id, queue.queue_type.name()),
                    queue.class.name(),
                    if queue.held { "held" } else { "runs" },
                    name(&queue.job)
                );
            }
            text
        })
    }

    pub(super) fn explanation(self, pid: Pid, explained: &Explanation) -> io::Result<()> {
        self.one(explained, || {
            let mut text = String::new();
            let by = match explained.rule {
                Some(rule) => format!("by rule {rule}"),
                None => "by no rule".to_owned(),
            };
            let what = match explained.class {
                Class::Ignore => "ignored: never stopped, and nobody is stopped for it",
                Class::Online => "online: never stopped, and offline jobs are stopped for it",
                Class::Offline => "offline: stopped while online jobs need the GPU",
            };
            let _ = writeln!(
                text,
                "process {pid} is {what}; job {}, {by}",
                name(&explained.job)
            );
            let _ = writeln!(text, "  {}", Escaped(explained.why.as_bytes()));
            for passed in &explained.passed_over {
                let why = Escaped(passed.why.as_bytes());
                let _ = writeln!(text, "  not rule {}: {why}", passed.rule);
            }
            text
        })
    }

    pub(super) fn config(self, settings: &[Setting]) -> io::Result<()> {
        self.many(settings, || {
            let mut text = self.title(&format!("{:28} {:24} ORIGIN", "KEY", "VALUE")) + "\n";
            for setting in settings {
                let _ = writeln!(
                    text,
                    "{:28} {:24} {}",
                    Escaped(setting.key.as_bytes()).to_string(),
                    Escaped(setting.value.as_bytes()).to_string(),
                    Escaped(setting.origin.as_bytes())
                );
            }
            text
        })
    }

    pub(super) fn asked(self, asked: &Asked) -> io::Result<()> {
        self.many(&asked.jobs, || {
            let mut text = String::new();
            for job in &asked.jobs {
                let _ = writeln!(
                    text,
                    "job {} {}: {}",
                    name(&job.job),
                    if job.held { "is held" } else { "runs" },
                    Escaped(job.why.as_bytes())
                );
            }
            text
        })
    }

    pub(super) fn done(self, done: &Done) -> io::Result<()> {
        self.one(done, || format!("{}\n", Escaped(done.what.as_bytes())))
    }
}

fn name(job: &JobId) -> String {
    Escaped(job.0.as_bytes()).to_string()
}
