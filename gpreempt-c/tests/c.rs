// SPDX-License-Identifier: MIT OR Apache-2.0
//! C programs, compiled by the system's compiler against the header and the shared library, with a daemon that this test plays.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use tempfile::TempDir;

/// A directory with the library as it is installed, and a program that uses it.
struct Built {
    dir: TempDir,
    program: PathBuf,
}

impl Built {
    fn new(source: &str) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = TempDir::new().unwrap();
        // Beside the tests, where cargo leaves it.
        let built = std::env::current_exe()
            .unwrap()
            .with_file_name("libgpreempt_c.so");
        symlink(built, dir.path().join("libgpreempt.so.0")).unwrap();
        symlink("libgpreempt.so.0", dir.path().join("libgpreempt.so")).unwrap();
        let program = dir.path().join("program");
        let output = Command::new("gcc")
            .args([
                "-std=gnu99",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
                "-pthread",
                "-I",
            ])
            .arg(here.join("include"))
            .arg(here.join(source))
            .arg("-L")
            .arg(dir.path())
            .args(["-lgpreempt", "-o"])
            .arg(&program)
            .output()
            .expect("gcc is there");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self { dir, program }
    }

    fn command(&self, socket: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("LD_LIBRARY_PATH", self.dir.path())
            .env("GPREEMPT_SOCKET", socket);
        command
    }
}

/// Answers hints as the daemon does.
struct Daemon {
    dir: TempDir,
    connections: Arc<AtomicUsize>,
}

impl Daemon {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(|| serve(stream.unwrap()));
            }
        });
        Self { dir, connections }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }
}

/// The connection carries frames from now on.
fn upgraded(mut stream: UnixStream) -> (BufReader<UnixStream>, UnixStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    assert_eq!(request(&mut lines), "POST /v1/hint-frames HTTP/1.1");
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: gpreempt-hints-1\r\n\r\n")
        .unwrap();
    (lines, stream)
}

/// What a frame asks for; `None` if there is no other.
fn kind(lines: &mut BufReader<UnixStream>) -> Option<u32> {
    let mut ask = [0; 32];
    lines.read_exact(&mut ask).ok()?;
    Some(u32::from_ne_bytes(ask[..4].try_into().unwrap()))
}

/// Done.
fn reply(stream: &mut UnixStream, value: u64) {
    // Status and length of the text are 0.
    let mut reply = [0; 16];
    reply[8..].copy_from_slice(&value.to_ne_bytes());
    stream.write_all(&reply).unwrap();
}

fn serve(stream: UnixStream) {
    let (mut lines, mut stream) = upgraded(stream);
    let mut id: u64 = 0;
    while let Some(kind) = kind(&mut lines) {
        match kind {
            1 => {
                id += 1;
                reply(&mut stream, id);
            }
            kind => {
                assert_eq!(kind, 2);
                reply(&mut stream, 20_000_000);
            }
        }
    }
}

/// First line of the first request, which has no body.
fn request(lines: &mut BufReader<UnixStream>) -> String {
    let mut head = lines.lines().map(Result::unwrap);
    let what = head.next().unwrap();
    while head.next().is_some_and(|line| !line.is_empty()) {}
    what
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[test]
fn the_library_has_its_name() {
    let built = Built::new("examples/online.c");
    let output = Command::new("readelf")
        .arg("-d")
        .arg(&built.program)
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.contains("[libgpreempt.so.0]"), "{text}");
}

#[test]
fn the_example_gives_hints_on_one_connection() {
    let daemon = Daemon::start();
    let built = Built::new("examples/online.c");
    let said = run(built.command(&daemon.socket()).arg("3"));
    assert!(
        said.starts_with("request 1: 20.000 ms\nrequest 2: 20.000 ms\n"),
        "{said}"
    );
    assert_eq!(daemon.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn the_guide_compiles_and_runs() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = std::fs::read_to_string(here.join("../docs/library.md")).unwrap();
    let code = guide.split("```c\n").nth(1).unwrap();
    let code = code.split("```").next().unwrap();
    let (include, body) = code.split_once('\n').unwrap();
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("guide.c");
    let program =
        format!("{include}\nstatic void work(void) {{}}\nint main(void) {{ {body} return 0; }}\n");
    std::fs::write(&source, program).unwrap();
    let daemon = Daemon::start();
    run(&mut Built::new(source.to_str().unwrap()).command(&daemon.socket()));
    assert_eq!(daemon.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn the_example_says_that_there_is_no_daemon() {
    let built = Built::new("examples/online.c");
    let output = built.command(Path::new("/nonexistent")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("no daemon listens") && said.contains("gpreempt serve"),
        "{said}"
    );
}

#[test]
fn threads_share_a_handle() {
    let daemon = Daemon::start();
    let said = run(&mut Built::new("tests/c/threads.c").command(&daemon.socket()));
    assert_eq!(said, "400 hints of 8 threads\n");
    assert_eq!(daemon.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_daemon_that_ends_is_an_error_and_no_signal() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let built = Built::new("tests/c/gone.c");
    let mut child: Child = built
        .command(&socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    let (mut lines, mut stream) = upgraded(stream);
    assert_eq!(kind(&mut lines), Some(1));
    reply(&mut stream, 1);
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "begun");
    drop((stream, lines, listener));
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let told: Vec<String> = said.map(Result::unwrap).collect();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {told:?}");
}
