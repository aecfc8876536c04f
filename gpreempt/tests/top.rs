// SPDX-License-Identifier: MIT OR Apache-2.0
//! `top` as a user starts it: with and without a terminal.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::{gpreempt, Tree};
use nix::pty::{openpty, Winsize};
use nix::sys::termios::tcgetattr;
use snapbox::str;

#[test]
fn without_a_terminal_it_says_what_to_use() {
    Tree::with_gpu("top-no-terminal")
        .gpreempt()
        .arg("top")
        .assert()
        .code(2)
        .stdout_eq("")
        .stderr_eq(str![[r#"
gpreempt: top needs a terminal; `gpreempt queues --watch` and `gpreempt watch` write to anything

"#]]);
}

#[test]
fn without_a_driver_there_is_nothing_to_show() {
    Tree::new("top-no-driver")
        .gpreempt()
        .arg("top")
        .assert()
        .code(69)
        .stdout_eq("");
}

#[test]
fn only_recordings_have_a_speed() {
    Tree::with_gpu("top-speed")
        .gpreempt()
        .args(["top", "--speed", "2"])
        .assert()
        .code(2)
        .stderr_eq(str![[r#"
gpreempt: --speed is of recordings: gpreempt replay FILE top --speed N

"#]]);
}

#[test]
fn a_file_that_is_no_recording_is_told_before_the_screen_is_taken() {
    let tree = Tree::new("top-foreign");
    tree.file("/foreign", "something else");
    gpreempt()
        .arg("replay")
        .arg(tree.path("/foreign"))
        .arg("top")
        .assert()
        .code(1)
        .stdout_eq("");
}

/// On a terminal, without events as there is no kernel to attach to: the screen comes, `q` ends it, the terminal is as it was.
#[test]
fn on_a_terminal_it_draws_and_gives_the_terminal_back() {
    let tree = Tree::with_gpu("top-terminal");
    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pair = openpty(Some(&size), None).expect("a terminal can be made");
    let before = tcgetattr(&pair.slave).expect("it has settings");
    let slave = || Stdio::from(pair.slave.try_clone().expect("it can be duplicated"));
    let mut child = Command::new(snapbox::cmd::cargo_bin!("gpreempt"))
        .arg("--root")
        .arg(tree.path("/"))
        .arg("top")
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .expect("it starts");
    let mut master = File::from(pair.master);
    let mut keys = master.try_clone().expect("it can be duplicated");
    let (pieces, output) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            if pieces.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut seen = String::new();
    let mut wait_for = |what: &str| {
        while !seen.contains(what) {
            let piece = output
                .recv_timeout(Duration::from_secs(60))
                .unwrap_or_else(|_| panic!("no {what:?} in {seen:?}"));
            seen.push_str(&String::from_utf8_lossy(&piece));
        }
    };
    wait_for("gfx942");
    wait_for("pictures");
    keys.write_all(b"\x0c").expect("a key can be pressed");
    wait_for("\u{1b}[2J");
    keys.write_all(b"h").expect("a key can be pressed");
    wait_for("Columns");
    keys.write_all(b"qq").expect("a key can be pressed");
    wait_for("\u{1b}[?1049l");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(tcgetattr(&pair.slave).expect("it has settings"), before);
}
