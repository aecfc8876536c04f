// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

const PATIENCE: Duration = Duration::from_secs(20);

/// Tells by its channel what happened to it.
struct Witness(mpsc::Sender<&'static str>);

impl Session for Witness {
    fn gone(&mut self) {
        let _ = self.0.send("gone");
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

/// A shell and its child, the process to be traced. Not our own child: the end of that would be taken by the tracer thread, who
/// is its parent too.
struct Job {
    shell: Child,
    pid: Pid,
    lines: BufReader<ChildStdout>,
}

impl Job {
    /// A shell that does this.
    fn shell(script: &str) -> Self {
        let mut shell = Command::new("sh")
            .args([
                "-c",
                "sh -c \"echo \\$\\$; $0\" & wait $!; echo code $?",
                script,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        Self { shell, pid, lines }
    }

    fn pid(&self) -> Pid {
        self.pid
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn signal(&self, number: i32) {
        // SAFETY: a number of a descendant of ours and a number of a signal.
        assert_eq!(unsafe { libc::kill(self.pid.0 as i32, number) }, 0);
    }

    fn started(&self) -> u64 {
        process::start_ticks(&Root::real(), self.pid()).unwrap()
    }

    /// The letter in `/proc/PID/stat`: t for a stop that a tracer knows of, T for one of the job's own.
    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    fn wait_state(&self, wanted: impl Fn(char) -> bool) {
        wait_for(|| wanted(self.state()));
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // SAFETY: as above; its parent has not waited for it yet unless it has ended, which is the worst that can happen.
        unsafe { libc::kill(self.pid.0 as i32, libc::SIGKILL) };
        let _ = self.shell.wait();
    }
}

fn wait_for(condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "it did not come true");
        thread::sleep(Duration::from_millis(2));
    }
}

fn trace(job: &Job) -> (Tracer<Witness>, mpsc::Receiver<&'static str>) {
    let (sender, receiver) = mpsc::channel();
    let start = Tracer::start(&Root::real(), job.pid(), job.started(), move || {
        Ok(Witness(sender))
    });
    (start.unwrap().wait().unwrap(), receiver)
}

fn tracer_of(job: &Job) -> Option<Pid> {
    process::tracer(&Root::real(), job.pid())
}

const TICKING: &str = "while :; do echo tick; sleep 0.02; done";

#[test]
fn signals_reach_a_traced_process() {
    let mut job = Job::shell(
        "trap 'echo usr' USR1; trap 'echo realtime' 40; echo armed; while :; do sleep 0.02; done",
    );
    assert_eq!(job.line(), "armed");
    let (tracer, said) = trace(&job);
    assert!(tracer_of(&job).is_some());
    for _ in 0..20 {
        job.signal(libc::SIGUSR1);
        assert_eq!(job.line(), "usr");
        job.signal(40);
        assert_eq!(job.line(), "realtime");
    }
    drop(tracer);
    assert_eq!(said.iter().collect::<Vec<_>>(), ["dropped"]);
    assert_eq!(tracer_of(&job), None);
    job.signal(libc::SIGUSR1);
    assert_eq!(job.line(), "usr");
}

#[test]
fn stopping_and_continuing_a_job_works_while_it_is_traced() {
    let mut job = Job::shell(TICKING);
    let (tracer, _said) = trace(&job);
    // Not SIGTSTP: it does nothing where nobody could continue the job, as under a test runner without a terminal.
    for _ in 0..3 {
        assert_eq!(job.line(), "tick");
        job.signal(libc::SIGSTOP);
        job.wait_state(|state| state == 't');
        // It stays stopped.
        thread::sleep(Duration::from_millis(60));
        assert_eq!(job.state(), 't');
        job.signal(libc::SIGCONT);
        job.wait_state(|state| !"tT".contains(state));
    }
    for _ in 0..20 {
        assert_eq!(job.line(), "tick");
    }
    drop(tracer);
}

#[test]
fn a_stopped_job_stays_stopped_when_it_is_let_go() {
    let mut job = Job::shell(TICKING);
    let (tracer, _said) = trace(&job);
    job.signal(libc::SIGSTOP);
    job.wait_state(|state| state == 't');
    drop(tracer);
    assert_eq!(tracer_of(&job), None);
    job.wait_state(|state| state == 'T');
    // And one that is stopped can be traced.
    let (tracer, _said) = trace(&job);
    job.wait_state(|state| state == 't');
    drop(tracer);
    job.wait_state(|state| state == 'T');
    job.signal(libc::SIGCONT);
    for _ in 0..20 {
        assert_eq!(job.line(), "tick");
    }
}

#[test]
fn an_end_is_noticed_and_reaches_the_parent() {
    let mut job = Job::shell("sleep 0.5; exit 7");
    let (tracer, said) = trace(&job);
    assert_eq!(said.recv_timeout(PATIENCE), Ok("gone"));
    wait_for(|| tracer.is_gone());
    assert_eq!(job.line(), "code 7");
    assert_eq!(tracer.ask(|session| session.is_none()).wait(), Some(true));
}

#[test]
fn the_end_of_an_own_child_is_left_to_who_started_it() {
    let script = "echo started; sleep 0.5; exit 7";
    let mut command = Command::new("sh");
    let mut child = command
        .args(["-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Not before that its exec is over.
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let pid = Pid(child.id());
    let started = process::start_ticks(&Root::real(), pid).unwrap();
    let (sender, said) = mpsc::channel();
    let start = Tracer::start(&Root::real(), pid, started, move || Ok(Witness(sender)));
    let tracer = start.unwrap().wait().unwrap();
    assert_eq!(said.recv_timeout(PATIENCE), Ok("gone"));
    assert_eq!(child.wait().unwrap().code(), Some(7));
    drop(tracer);
}

#[test]
fn a_kill_is_noticed_also_in_a_stop() {
    let mut job = Job::shell(TICKING);
    let (tracer, said) = trace(&job);
    job.signal(libc::SIGSTOP);
    job.wait_state(|state| state == 't');
    job.signal(libc::SIGKILL);
    assert_eq!(said.recv_timeout(PATIENCE), Ok("gone"));
    while job.line() != "code 137" {}
    drop(tracer);
}

#[test]
fn a_new_program_is_let_go() {
    let job = Job::shell("sleep 0.5; exec sleep 1000");
    let (tracer, said) = trace(&job);
    assert_eq!(said.recv_timeout(PATIENCE), Ok("gone"));
    wait_for(|| tracer_of(&job).is_none());
    let comm = || std::fs::read_to_string(format!("/proc/{}/comm", job.pid())).unwrap();
    wait_for(|| comm().trim() == "sleep" && "SR".contains(job.state()));
    drop(tracer);
}

#[test]
fn another_process_with_that_pid_is_left_alone() {
    let job = Job::shell(TICKING);
    let (sender, said) = mpsc::channel();
    let start = Tracer::start(&Root::real(), job.pid(), job.started() + 1, move || {
        Ok(Witness(sender))
    });
    let refusal = start.unwrap().wait().map(drop).unwrap_err();
    assert!(refusal.what.contains("another one"), "{refusal}");
    assert_eq!(said.iter().count(), 0);
    wait_for(|| tracer_of(&job).is_none());
}

#[test]
fn a_refused_session_leaves_nothing_behind() {
    let mut job = Job::shell(TICKING);
    let refuse = || Err::<Witness, _>(why::thread_ended());
    let start = Tracer::start(&Root::real(), job.pid(), job.started(), refuse);
    assert!(start.unwrap().wait().is_err());
    wait_for(|| tracer_of(&job).is_none());
    assert_eq!(job.line(), "tick");
}

#[test]
fn only_one_can_trace() {
    let job = Job::shell(TICKING);
    let (tracer, _said) = trace(&job);
    let (sender, _other) = mpsc::channel();
    let start = Tracer::start(&Root::real(), job.pid(), job.started(), move || {
        Ok(Witness(sender))
    });
    let refusal = start.unwrap().wait().map(drop).unwrap_err();
    assert_eq!(refusal.errno, Some(Errno::EPERM));
    assert!(refusal.what.contains("already"), "{refusal}");
    drop(tracer);
}

#[test]
fn a_panic_in_a_job_undoes_and_detaches() {
    let mut job = Job::shell(TICKING);
    let (tracer, said) = trace(&job);
    let answer = tracer.ask(|_| -> () { panic!("on purpose") });
    assert_eq!(answer.wait(), None);
    assert_eq!(said.recv_timeout(PATIENCE), Ok("dropped"));
    assert_eq!(tracer.ask(|_| ()).wait(), None);
    wait_for(|| tracer_of(&job).is_none());
    assert_eq!(job.line(), "tick");
}

#[test]
fn many_can_be_traced_at_once() {
    let jobs: Vec<Job> = (0..16).map(|_| Job::shell(TICKING)).collect();
    let tracers: Vec<_> = jobs.iter().map(trace).collect();
    for (tracer, _) in &tracers {
        assert_eq!(tracer.ask(|session| session.is_some()).wait(), Some(true));
    }
    drop(tracers);
    for job in &jobs {
        assert_eq!(tracer_of(job), None);
    }
}
