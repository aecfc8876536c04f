// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon's socket on a machine without a driver: every call of the OpenAPI document, callers who are hostile or in the way,
//! random bodies. What it does to queues is tested in guests.

#![allow(
    clippy::unwrap_used,
    reason = "what the helpers cannot do fails the test"
)]

#[path = "common/calls.rs"]
mod calls;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use calls::{Call, Maker};
use gpreempt::serve::api::HintBegin;
use gpreempt::serve::client::ClientError;
use gpreempt::serve::hint_client::HintClient;
use gpreempt_common::hint::{Ask, Reply, BEGIN};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{json, Value};
use zerocopy::IntoBytes as _;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gpreempt");

struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    fn start(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("gpreempt.toml"), config).unwrap();
        Self::start_in(dir)
    }

    /// With the configuration that is there.
    fn start_in(dir: tempfile::TempDir) -> Self {
        let file = dir.path().join("gpreempt.toml");
        // Others than root must reach the socket.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let child = Command::new(PROGRAM)
            .args(["serve", "--root"])
            .arg(dir.path())
            .arg("--config")
            .arg(&file)
            .arg("--socket")
            .arg(dir.path().join("socket"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, dir };
        let until = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(daemon.socket()).is_err() {
            assert!(Instant::now() < until, "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).unwrap();
        stream
    }

    /// The status and the body of one call.
    fn call(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let call = Call {
            method: method.to_owned(),
            path: path.to_owned(),
            body: body.to_owned(),
        };
        call.make(&self.socket()).unwrap()
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let (status, answer) = self.call(method, path, &body);
        let answer = serde_json::from_slice(&answer).unwrap_or_else(|e| {
            panic!("{method} {path}: {e}: {}", String::from_utf8_lossy(&answer))
        });
        (status, answer)
    }

    fn ctl(&self, uid: Option<u32>, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command
            .arg("ctl")
            .arg("--socket")
            .arg(self.socket())
            .args(args);
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        command.output().unwrap()
    }

    /// Ends it, and leaves its directory for another.
    fn end(mut self) -> tempfile::TempDir {
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    /// It still answers.
    fn is_well(&self) {
        let (status, answer) = self.json("GET", "/v1/status", &Value::Null);
        assert_eq!(status, 200, "{answer}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Method and path of every call, with something in the place of its parameters.
fn operations() -> Vec<(String, String)> {
    let all = calls::operations().into_iter().map(|operation| {
        let path = operation.path.replace("{pid}", "1").replace("{id}", "1");
        (operation.method, path)
    });
    all.collect()
}

#[test]
fn every_call_of_the_document_is_there() {
    let daemon = Daemon::start("");
    let all = operations();
    assert!(all.len() >= 17, "{all:?}");
    for (method, path) in all {
        let (status, answer) = daemon.call(&method, &path, b"");
        let said = String::from_utf8_lossy(&answer);
        assert!(
            ![404, 405].contains(&status) || said.contains("hint") || said.contains("process"),
            "{method} {path}: {status} {said}"
        );
        assert!(status < 500, "{method} {path}: {status} {said}");
    }
    let (status, answer) = daemon.json("GET", "/v1/openapi.json", &Value::Null);
    assert_eq!((status, &answer), (200, &calls::document()));
    assert_eq!(daemon.json("GET", "/v2", &Value::Null).0, 404);
    assert_eq!(daemon.json("DELETE", "/v1/status", &Value::Null).0, 405);
}

#[test]
fn hints_begin_and_end() {
    let daemon = Daemon::start("");
    let (status, begun) = daemon.json("POST", "/v1/hints", &json!({ "wait": true }));
    assert_eq!(status, 200, "{begun}");
    let (_, told) = daemon.json("GET", "/v1/status", &Value::Null);
    assert_eq!(told["hints"], 1);
    let path = format!("/v1/hints/{}", begun["id"]);
    let (status, ended) = daemon.json("DELETE", &path, &Value::Null);
    assert_eq!(status, 200, "{ended}");
    assert!(ended["latency_ns"].as_u64().unwrap() > 0);
    assert_eq!(daemon.json("DELETE", &path, &Value::Null).0, 404);
    let (status, refused) = daemon.json("POST", "/v1/hints", &json!({ "lead": 3 }));
    assert_eq!(status, 422, "{refused}");
    assert!(
        refused["error"].as_str().unwrap().contains("lead"),
        "{refused}"
    );
}

#[test]
fn hints_in_frames_are_hints() {
    let daemon = Daemon::start("");
    let mut client = HintClient::new(&daemon.socket());
    let asked = HintBegin {
        wait: true,
        ..HintBegin::default()
    };
    let id = client.begin(&asked).unwrap();
    let (_, told) = daemon.json("GET", "/v1/status", &Value::Null);
    assert_eq!(told["hints"], 1);
    client.end(id).unwrap();
    let (_, told) = daemon.json("GET", "/v1/status", &Value::Null);
    assert_eq!(told["hints"], 0);
    let twice = client.end(id).unwrap_err();
    assert!(matches!(twice, ClientError::NotFound(_)), "{twice}");
    // What it is refused does not end the connection, nor does a daemon that is started again.
    client.begin(&HintBegin::default()).unwrap();
    let dir = daemon.end();
    assert!(matches!(
        client.begin(&asked).unwrap_err(),
        ClientError::NoDaemon { .. }
    ));
    let daemon = Daemon::start_in(dir);
    client.begin(&asked).unwrap();
    let (_, told) = daemon.json("GET", "/v1/status", &Value::Null);
    assert_eq!(told["hints"], 1);
}

#[test]
fn frames_that_are_none_are_refused_and_end_nothing() {
    let daemon = Daemon::start("");
    assert_eq!(daemon.call("POST", "/v1/hint-frames", b"").0, 426);
    let mut stream = daemon.connect();
    stream
        .write_all(b"POST /v1/hint-frames HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: gpreempt-hints-1\r\n\r\n")
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let said = |stream: &mut UnixStream, ask: &Ask| {
        stream.write_all(ask.as_bytes()).unwrap();
        let mut reply = Reply::default();
        stream.read_exact(reply.as_mut_bytes()).unwrap();
        let mut text = vec![0; reply.text_bytes as usize];
        stream.read_exact(&mut text).unwrap();
        (reply.status, String::from_utf8(text).unwrap())
    };
    let kind = |kind| Ask {
        kind,
        ..Ask::default()
    };
    let (status, why) = said(&mut stream, &kind(7));
    assert!(status == 422 && why.contains("kind 7"), "{status}: {why}");
    let flags = Ask {
        flags: 8,
        ..kind(BEGIN)
    };
    let (status, why) = said(&mut stream, &flags);
    assert!(status == 422 && why.contains("0x8"), "{status}: {why}");
    assert_eq!(said(&mut stream, &kind(BEGIN)).0, 0);
    // Half a frame.
    stream.write_all(&[1, 0, 0]).unwrap();
    drop(stream);
    daemon.is_well();
}

#[test]
fn a_policy_that_lacks_a_parameter_is_refused() {
    let daemon = Daemon::start("");
    let (status, refused) = daemon.json("PUT", "/v1/policy", &json!({ "name": "slo" }));
    assert_eq!(status, 422, "{refused}");
    let (status, done) = daemon.json("PUT", "/v1/policy", &json!({ "name": "timeslice" }));
    assert_eq!(status, 200, "{done}");
    let (_, told) = daemon.json("GET", "/v1/status", &Value::Null);
    assert_eq!(told["policy"], "timeslice");
    // The file says manual.
    assert_eq!(daemon.json("POST", "/v1/reload", &Value::Null).0, 200);
    let (_, told) = daemon.json("GET", "/v1/status", &Value::Null);
    assert_eq!(told["policy"], "manual");
}

/// A user who is not root: nobody, or whoever runs the tests, as only root can become somebody else.
fn user() -> (u32, Option<u32>) {
    let me = nix::unistd::geteuid();
    match me.is_root() {
        true => (65534, Some(65534)),
        false => (me.as_raw(), None),
    }
}

#[test]
fn others_may_do_what_the_configuration_says() {
    let (uid, become_) = user();
    let daemon = Daemon::start(&format!("[access]\nhint = [\"{uid}\"]\n"));
    assert_eq!(daemon.ctl(become_, &["status"]).status.code(), Some(0));
    let hint = &["hint", "--for", "1s"][..];
    assert_eq!(daemon.ctl(become_, hint).status.code(), Some(0));
    for args in [
        &["policy", "share"][..],
        &["reload"],
        &["go-on"],
        &["hold", "--pid", "1"],
    ] {
        let output = daemon.ctl(become_, args);
        assert_eq!(output.status.code(), Some(77), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("[access]"), "{args:?}: {said}");
    }
    let closed = Daemon::start("[access]\nread = []\n");
    assert_eq!(closed.ctl(become_, &["status"]).status.code(), Some(77));
    assert_eq!(closed.ctl(become_, hint).status.code(), Some(77));
}

#[test]
fn ctl_says_that_there_is_no_daemon() {
    let output = Command::new(PROGRAM)
        .args(["ctl", "--socket", "/nonexistent/socket", "status"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("gpreempt serve"));
}

#[test]
fn a_second_daemon_does_not_take_the_socket() {
    let daemon = Daemon::start("");
    let output = Command::new(PROGRAM)
        .arg("serve")
        .arg("--socket")
        .arg(daemon.socket())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("already"));
    daemon.is_well();
}

#[test]
fn a_wrong_configuration_is_a_usage_error_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    std::fs::write(&file, "[guards]\nmax_pause = 3\n").unwrap();
    let output = Command::new(PROGRAM)
        .args(["serve", "--socket", "/nonexistent/s", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a.toml") && said.contains("line 2"), "{said}");
}

#[test]
fn garbage_and_silence_harm_nobody() {
    let daemon = Daemon::start("");
    for garbage in [
        &b"\x00\x01\x02\xff\xfe"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/hold HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /v1/hold HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut stream = daemon.connect();
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        daemon.is_well();
    }
    let long = vec![b' '; 200 << 10];
    assert_eq!(daemon.call("POST", "/v1/hold", &long).0, 413);
    // They say half of what they want, or nothing.
    let mut slow: Vec<UnixStream> = (0..50).map(|_| daemon.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"POST /v1/hold HTTP/1.1\r\nho").unwrap();
    }
    daemon.is_well();
}

#[test]
fn thousands_of_connections_leave_room_for_root() {
    let daemon = Daemon::start("");
    // The test itself has few descriptors: in rounds, so that some stay open while others come and go.
    let mut open = Vec::new();
    for n in 0..3000 {
        if let Ok(stream) = UnixStream::connect(daemon.socket()) {
            open.push(stream);
        }
        if open.len() >= 400 {
            open.drain(..200);
        }
        if n % 500 == 0 {
            daemon.is_well();
        }
    }
    drop(open);
    daemon.is_well();
}

/// Any JSON.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let keys = prop_oneof![
            Just("pid"),
            Just("pids"),
            Just("jobs"),
            Just("class"),
            Just("name"),
            Just("lead_ms"),
            Just("expires_ms"),
            Just("for_ms"),
            Just("group"),
            Just("weight"),
            Just("max_pause_ms"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys, inner), 0..5).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

/// Calls that the document allows, bent and broken: guests have the same made against real queues.
#[test]
fn calls_made_of_the_document_are_answered() {
    let daemon = Daemon::start("");
    let mut maker = Maker::new(7, &[1, std::process::id()]);
    let (mut good, mut asked) = (0, std::collections::BTreeSet::new());
    for _ in 0..600 {
        let (call, operation) = maker.call();
        let (status, answer) = call.make(&daemon.socket()).unwrap();
        let said = String::from_utf8_lossy(&answer);
        assert!((200..500).contains(&status), "{call:?}: {status} {said}");
        good += usize::from(status == 200);
        asked.extend(operation.map(|of| (of.method, of.path)));
    }
    // It would prove little if everything were refused for its form.
    assert!(good > 100, "{good} calls were granted");
    let operations = calls::operations();
    assert_eq!(asked.len(), operations.len(), "{asked:?}");
    // The document itself is for everybody.
    let free = operations.iter().filter(|of| of.right.is_none());
    assert_eq!(free.count(), 1);
    daemon.is_well();
}

/// Every call with bodies that nobody would send.
#[test]
fn random_bodies_are_answered_and_never_with_an_error_of_ours() {
    let daemon = Daemon::start("");
    let operations = operations();
    let mut runner = TestRunner::new(Config::with_cases(400));
    let calls = (0..operations.len(), any_json(), any::<u64>());
    runner
        .run(&calls, |(at, body, number)| {
            let (method, path) = &operations[at];
            // Reading the log on is answered without end.
            let path = path.replace("/1", &format!("/{number}"));
            let (status, answer) = daemon.call(method, &path, body.to_string().as_bytes());
            prop_assert!(
                status < 500,
                "{method} {path} {body}: {status} {}",
                String::from_utf8_lossy(&answer)
            );
            Ok(())
        })
        .unwrap();
    daemon.is_well();
    let audit = daemon.ctl(None, &["audit", "--last", "1000"]);
    for line in String::from_utf8(audit.stdout).unwrap().lines() {
        let _: Value = serde_json::from_str(line).unwrap();
    }
}
