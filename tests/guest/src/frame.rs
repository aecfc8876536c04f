// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames on the channel between host and guest.
//!
//! A frame is one byte of kind, the payload's length as 32-bit little endian, and the payload: raw bytes
//! for streams, JSON for everything else. One command runs at a time: [`ToGuest::Exec`] starts it,
//! [`ToHost::Exit`] ends it, and every byte it wrote lies between the two.
//!
//! Flow control: output needs none, because a host that does not read makes the guest's writes wait,
//! and with them the command. Input must not do the same, or a signal would wait behind bytes that the
//! command never reads; so the host sends at most [`STDIN_WINDOW`] bytes that the guest has not
//! acknowledged by [`ToHost::StdinCredit`].

use std::io::{self, Read, Write};

use serde::{de::DeserializeOwned, Deserialize, Serialize};

/// Bytes of input that may be on their way to the command.
pub const STDIN_WINDOW: usize = 64 * 1024;

/// Longest payload either side accepts. Streams are cut into far smaller pieces.
const MAX_PAYLOAD: usize = 4 << 20;

/// A command to run in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program (looked up in the guest's `PATH`) and arguments.
    pub argv: Vec<String>,
    /// Variables set in addition to the guest's own.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// Give the command a terminal of this size instead of pipes.
    pub tty: Option<WindowSize>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// The guest serves commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Kernel release, as `uname -r`.
    pub kernel: String,
    /// Time since the guest's kernel started.
    pub uptime_ms: u64,
    /// What PID 1 could not do, such as a module that did not load. Empty when all went well.
    pub problems: Vec<String>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It did not start; the reason.
    NotStarted(String),
}

/// From the host to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    /// Run this.
    Exec(Exec),
    /// Input of the command.
    Stdin(Vec<u8>),
    /// The input ends here.
    StdinEof,
    /// The host's terminal changed its size.
    Resize(WindowSize),
    /// Send this signal to the command's process group.
    Signal(i32),
    /// Nobody reads the output any more: let the command see a broken pipe.
    CloseStdout,
    /// Nobody reads the error output any more.
    CloseStderr,
    /// Power off.
    Shutdown,
}

/// From the guest to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost {
    /// The first frame of a guest.
    Ready(Ready),
    /// Output of the command.
    Stdout(Vec<u8>),
    /// Error output of the command.
    Stderr(Vec<u8>),
    /// So many bytes of input left the window.
    StdinCredit(u32),
    /// The command ended; no output of it follows.
    Exit(Exit),
    /// A remark of the guest for people.
    Log(String),
}

impl ToGuest {
    /// The frame's kind and payload.
    fn parts(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Self::Exec(exec) => (1, json(exec)?),
            Self::Stdin(bytes) => (2, bytes.clone()),
            Self::StdinEof => (3, Vec::new()),
            Self::Resize(size) => (4, json(size)?),
            Self::Signal(number) => (5, json(number)?),
            Self::CloseStdout => (6, Vec::new()),
            Self::CloseStderr => (7, Vec::new()),
            Self::Shutdown => (8, Vec::new()),
        })
    }

    fn from_parts(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        Ok(match kind {
            1 => Self::Exec(unjson(&payload)?),
            2 => Self::Stdin(payload),
            3 => Self::StdinEof,
            4 => Self::Resize(unjson(&payload)?),
            5 => Self::Signal(unjson(&payload)?),
            6 => Self::CloseStdout,
            7 => Self::CloseStderr,
            8 => Self::Shutdown,
            _ => return Err(unknown(kind)),
        })
    }

    /// Writes the frame in one piece.
    ///
    /// # Errors
    /// As the writer's.
    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = self.parts()?;
        write_frame(writer, kind, &payload)
    }

    /// Reads the next frame; `None` when the stream ends between two frames.
    ///
    /// # Errors
    /// As the reader's, and `InvalidData` for a frame that this protocol does not know.
    pub fn read_from(reader: &mut impl Read) -> io::Result<Option<Self>> {
        read_frame(reader)?
            .map(|(kind, payload)| Self::from_parts(kind, payload))
            .transpose()
    }
}

impl ToHost {
    /// The frame's kind and payload.
    fn parts(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Self::Ready(ready) => (101, json(ready)?),
            Self::Stdout(bytes) => (102, bytes.clone()),
            Self::Stderr(bytes) => (103, bytes.clone()),
            Self::StdinCredit(bytes) => (104, json(bytes)?),
            Self::Exit(exit) => (105, json(exit)?),
            Self::Log(text) => (106, json(text)?),
        })
    }

    fn from_parts(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        Ok(match kind {
            101 => Self::Ready(unjson(&payload)?),
            102 => Self::Stdout(payload),
            103 => Self::Stderr(payload),
            104 => Self::StdinCredit(unjson(&payload)?),
            105 => Self::Exit(unjson(&payload)?),
            106 => Self::Log(unjson(&payload)?),
            _ => return Err(unknown(kind)),
        })
    }

    /// Writes the frame in one piece.
    ///
    /// # Errors
    /// As the writer's.
    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = self.parts()?;
        write_frame(writer, kind, &payload)
    }

    /// Reads the next frame; `None` when the stream ends between two frames.
    ///
    /// # Errors
    /// As the reader's, and `InvalidData` for a frame that this protocol does not know.
    pub fn read_from(reader: &mut impl Read) -> io::Result<Option<Self>> {
        read_frame(reader)?
            .map(|(kind, payload)| Self::from_parts(kind, payload))
            .transpose()
    }
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::from)
}

fn unjson<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    serde_json::from_slice(payload).map_err(io::Error::from)
}

fn unknown(kind: u8) -> io::Error {
    invalid(format!(
        "frame of unknown kind {kind}: host and guest programs differ, rebuild both"
    ))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn write_frame(writer: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_PAYLOAD)
        .ok_or_else(|| invalid(format!("frame of {} bytes is too long", payload.len())))?;
    let mut bytes = Vec::with_capacity(5 + payload.len());
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
    writer.write_all(&bytes)?;
    writer.flush()
}

fn read_frame(reader: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut kind = [0];
    if read_some(reader, &mut kind)? == 0 {
        return Ok(None);
    }
    let mut length = [0; 4];
    reader.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_PAYLOAD {
        return Err(invalid(format!(
            "frame of kind {} claims {length} bytes: the channel is out of step",
            kind[0]
        )));
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload)?;
    Ok(Some((kind[0], payload)))
}

/// As `read`, but not ended by a signal.
fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out one byte at a time, as a slow channel may.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    fn to_guest() -> Vec<ToGuest> {
        vec![
            ToGuest::Exec(Exec {
                argv: vec!["sh".into(), "-c".into(), "echo \"ü\n\"".into()],
                env: vec![("TERM".into(), "xterm".into())],
                cwd: "/".into(),
                tty: Some(WindowSize { rows: 24, cols: 80 }),
            }),
            ToGuest::Stdin(vec![0, 255, 1, 2]),
            ToGuest::Stdin(Vec::new()),
            ToGuest::StdinEof,
            ToGuest::Resize(WindowSize {
                rows: 1,
                cols: 65535,
            }),
            ToGuest::Signal(2),
            ToGuest::CloseStdout,
            ToGuest::CloseStderr,
            ToGuest::Shutdown,
        ]
    }

    fn to_host() -> Vec<ToHost> {
        vec![
            ToHost::Ready(Ready {
                kernel: "6.12".into(),
                uptime_ms: 2500,
                problems: vec!["x".into()],
            }),
            ToHost::Stdout((0..=255).collect()),
            ToHost::Stderr(b"no\n".to_vec()),
            ToHost::StdinCredit(65536),
            ToHost::Exit(Exit::Code(3)),
            ToHost::Exit(Exit::Signal(15)),
            ToHost::Exit(Exit::NotStarted("no such file".into())),
            ToHost::Log("hello".into()),
        ]
    }

    #[test]
    fn every_frame_comes_back_as_it_was_sent_even_byte_by_byte() {
        let mut wire = Vec::new();
        to_guest()
            .iter()
            .for_each(|frame| frame.write_to(&mut wire).unwrap());
        let mut reader = Drip(&wire);
        for frame in to_guest() {
            assert_eq!(ToGuest::read_from(&mut reader).unwrap(), Some(frame));
        }
        assert_eq!(ToGuest::read_from(&mut reader).unwrap(), None);

        let mut wire = Vec::new();
        to_host()
            .iter()
            .for_each(|frame| frame.write_to(&mut wire).unwrap());
        let mut reader = Drip(&wire);
        for frame in to_host() {
            assert_eq!(ToHost::read_from(&mut reader).unwrap(), Some(frame));
        }
        assert_eq!(ToHost::read_from(&mut reader).unwrap(), None);
    }

    #[test]
    fn a_frame_cut_short_is_an_error_and_not_an_end() {
        let mut wire = Vec::new();
        ToHost::Stdout(vec![1; 100]).write_to(&mut wire).unwrap();
        for length in 1..wire.len() {
            let error = ToHost::read_from(&mut &wire[..length]).unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::UnexpectedEof,
                "cut at {length}"
            );
        }
    }

    #[test]
    fn noise_on_the_channel_is_refused() {
        assert!(ToHost::read_from(&mut &[102, 255, 255, 255, 255][..]).is_err());
        assert!(ToHost::read_from(&mut &[77, 0, 0, 0, 0][..]).is_err());
        assert!(ToGuest::read_from(&mut &[1, 2, 0, 0, 0, b'{', b'}'][..]).is_err());
    }

    #[test]
    fn a_payload_beyond_the_limit_is_not_sent() {
        let mut wire = Vec::new();
        assert!(ToGuest::Stdin(vec![0; MAX_PAYLOAD + 1])
            .write_to(&mut wire)
            .is_err());
        assert!(wire.is_empty());
    }
}
