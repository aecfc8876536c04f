// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a command can carry the agent: the dynamic loader preloads a library only into programs that have one, of the same C
//! library, and that run with the rights of whoever starts them (ld.so(8)). What it would leave out in silence is refused here.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{access, AccessFlags};
use object::elf;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{LittleEndian, ReadCache};

/// The library's file.
pub const LIBRARY: &str = "libgpreempt_agent.so";

/// Where packages put it, seen from the program's directory.
const INSTALLED: &str = "../lib/gpreempt";

/// The loader of the C library that the agent is built for.
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Scripts of scripts of scripts: the kernel's own limit is 5 (`exec_binprm`, Linux 6.12).
const DEPTH: u32 = 5;

/// Longest first line of a script (`BINPRM_BUF_SIZE`).
const LINE_BYTES: u64 = 256;

/// Why it cannot.
#[derive(Debug, thiserror::Error)]
pub enum Unable {
    /// There is no such command, or it cannot be executed.
    #[error("{}: {error}", .program.display())]
    Start {
        /// It.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The loader would leave the library out.
    #[error("{}: {why}: no library can be preloaded into it", .program.display())]
    Refused {
        /// It, or the interpreter of a script.
        program: PathBuf,
        /// Why.
        why: &'static str,
    },
}

/// The agent's library beside the program, or where packages put it.
///
/// # Errors
/// It is in neither place.
pub fn library() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let dir = program.parent().unwrap_or(Path::new("/"));
    let places = [dir.join(LIBRARY), dir.join(INSTALLED).join(LIBRARY)];
    places
        .iter()
        .find_map(|place| place.canonicalize().ok())
        .ok_or_else(|| {
            let [beside, installed] = places.map(|place| place.display().to_string());
            let what = format!("the agent is neither {beside} nor {installed}");
            io::Error::new(io::ErrorKind::NotFound, what)
        })
}

/// `LD_PRELOAD` with the library before what is in it.
///
/// # Errors
/// The loader separates names by colons and spaces, so that the path must have none.
pub fn variable(library: &Path, before: Option<&OsStr>) -> Result<OsString, &'static str> {
    let path = library.as_os_str();
    if path.as_bytes().iter().any(|byte| b": \t\n".contains(byte)) {
        return Err("the path of a preloaded library must have no colon and no space");
    }
    let mut all = path.to_owned();
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        all.push(":");
        all.push(before);
    }
    Ok(all)
}

/// Finds the command as a shell would, and checks it and the interpreters that it names. Returns its path.
///
/// # Errors
/// See [`Unable`].
pub fn check(command: &OsStr) -> Result<PathBuf, Unable> {
    let program = find(command)?;
    let mut of = program.clone();
    for _ in 0..DEPTH {
        match interpreter(&of)? {
            Some(next) => of = next,
            None => return Ok(program),
        }
    }
    Err(Unable::Refused {
        program,
        why: "it is a script of scripts without end",
    })
}

fn find(command: &OsStr) -> Result<PathBuf, Unable> {
    let executable = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if command.as_bytes().contains(&b'/') {
        let program = PathBuf::from(command);
        // Whoever executes it is told by the kernel what is wrong; here it matters that it is there.
        return match fs::metadata(&program) {
            Ok(_) if executable(&program) => Ok(program),
            Ok(_) => Err(Unable::Start {
                program,
                error: io::ErrorKind::PermissionDenied.into(),
            }),
            Err(error) => Err(Unable::Start { program, error }),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|dir| dir.join(command))
        .find(|program| executable(program))
        .ok_or_else(|| Unable::Start {
            program: command.into(),
            error: io::ErrorKind::NotFound.into(),
        })
}

/// The interpreter of a script; `None` for a program that can carry the library.
fn interpreter(program: &Path) -> Result<Option<PathBuf>, Unable> {
    let start = |error| Unable::Start {
        program: program.to_owned(),
        error,
    };
    let refused = |why| Unable::Refused {
        program: program.to_owned(),
        why,
    };
    let file = File::open(program).map_err(start)?;
    let mut line = Vec::new();
    (&file)
        .take(LINE_BYTES)
        .read_to_end(&mut line)
        .map_err(start)?;
    if let Some(rest) = line.strip_prefix(b"#!") {
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line
            .split(|byte| b" \t".contains(byte))
            .filter(|word| !word.is_empty());
        let name = words
            .next()
            .ok_or_else(|| refused("its #! names nothing"))?;
        return Ok(Some(OsStr::from_bytes(name).into()));
    }
    let of = file.metadata().map_err(start)?;
    let other_user = of.mode() & libc::S_ISUID != 0 && of.uid() != nix::unistd::geteuid().as_raw();
    let other_group = of.mode() & libc::S_ISGID != 0 && of.gid() != nix::unistd::getegid().as_raw();
    if other_user || other_group {
        return Err(refused("it runs with the rights of its owner"));
    }
    if has_capabilities(program) {
        return Err(refused("it has capabilities of its own"));
    }
    elf_problem(&file).map_or(Ok(None), |why| Err(refused(why)))
}

fn has_capabilities(program: &Path) -> bool {
    let Ok(path) = CString::new(program.as_os_str().as_bytes()) else {
        return false;
    };
    let name = c"security.capability";
    // SAFETY: C strings; without room it only tells the size.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Why the loader would not load the library into it.
fn elf_problem(file: &File) -> Option<&'static str> {
    let data = ReadCache::new(file);
    let Ok(header) = elf::FileHeader64::<LittleEndian>::parse(&data) else {
        return Some("it is neither a script nor a program for x86-64");
    };
    if header.e_machine(LittleEndian) != elf::EM_X86_64 {
        return Some("it is a program for another processor");
    }
    let Ok(segments) = header.program_headers(LittleEndian, &data) else {
        return Some("it is damaged");
    };
    let loader = segments
        .iter()
        .find_map(|segment| segment.interpreter(LittleEndian, &data).ok().flatten());
    match loader {
        None => Some("it is linked statically"),
        Some(path) if path.ends_with(LOADER.as_bytes()) => None,
        Some(_) => Some("it has another C library"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(dir: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn refused(program: &Path) -> &'static str {
        match check(program.as_os_str()) {
            Err(Unable::Refused { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn programs_of_the_system_can_carry_it() {
        assert_eq!(
            check("sh".as_ref()).unwrap().file_name(),
            Some("sh".as_ref())
        );
        check("/bin/sh".as_ref()).unwrap();
    }

    #[test]
    fn scripts_are_followed_to_their_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let good = file(dir.path(), "good", b"#! /usr/bin/env sh -e\n", 0o755);
        check(good.as_os_str()).unwrap();
        let data = file(dir.path(), "data", b"hello", 0o755);
        let line = format!("#!{}\n", data.display());
        let bad = file(dir.path(), "bad", line.as_bytes(), 0o755);
        assert!(refused(&bad).contains("neither a script nor"));
        let own = dir.path().join("own");
        let line = format!("#!{}\n", own.display());
        file(dir.path(), "own", line.as_bytes(), 0o755);
        assert!(refused(&own).contains("without end"));
        let empty = file(dir.path(), "empty", b"#!\n", 0o755);
        assert!(refused(&empty).contains("names nothing"));
    }

    #[test]
    fn what_the_loader_would_leave_out_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let shell = fs::read("/bin/sh").unwrap();
        let foreign = file(dir.path(), "arm", &shell, 0o755);
        let mut bytes = shell.clone();
        bytes[18..20].copy_from_slice(&elf::EM_AARCH64.to_le_bytes());
        fs::write(&foreign, &bytes).unwrap();
        assert!(refused(&foreign).contains("another processor"));
        // Without program headers there is no loader.
        let mut bytes = shell.clone();
        bytes[56..58].copy_from_slice(&0u16.to_le_bytes());
        let lone = file(dir.path(), "static", &bytes, 0o755);
        assert!(refused(&lone).contains("statically"));
        let cut = file(dir.path(), "cut", &shell[..100], 0o755);
        assert!(!refused(&cut).is_empty());
        let loader = b"ld-linux-x86-64.so.2";
        let at = shell
            .windows(loader.len())
            .position(|window| window == loader)
            .unwrap();
        let mut bytes = shell.clone();
        bytes[at..at + 7].copy_from_slice(b"ld-musl");
        let musl = file(dir.path(), "musl", &bytes, 0o755);
        assert!(refused(&musl).contains("another C library"));
        if nix::unistd::geteuid().is_root() {
            let owned = file(dir.path(), "owned", &shell, 0o755);
            std::os::unix::fs::chown(&owned, Some(1), Some(1)).unwrap();
            fs::set_permissions(&owned, fs::Permissions::from_mode(0o4755)).unwrap();
            assert!(refused(&owned).contains("its owner"));
        }
    }

    #[test]
    fn what_cannot_be_started_is_told_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let plain = file(dir.path(), "plain", b"", 0o644);
        for (command, kind) in [
            ("no-such-command-here".as_ref(), io::ErrorKind::NotFound),
            ("/nonexistent/x".as_ref(), io::ErrorKind::NotFound),
            (plain.as_os_str(), io::ErrorKind::PermissionDenied),
        ] {
            match check(command) {
                Err(Unable::Start { error, .. }) => assert_eq!(error.kind(), kind),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_was_preloaded_before_stays() {
        let all = |before: Option<&str>| variable(Path::new("/a/b.so"), before.map(OsStr::new));
        assert_eq!(all(None).unwrap(), "/a/b.so");
        assert_eq!(all(Some("")).unwrap(), "/a/b.so");
        assert_eq!(all(Some("/c.so")).unwrap(), "/a/b.so:/c.so");
        assert!(variable(Path::new("/a b.so"), None).is_err());
    }
}
