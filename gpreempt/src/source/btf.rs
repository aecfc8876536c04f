// SPDX-License-Identifier: MIT OR Apache-2.0
//! Types of the kernel and of its modules: the BPF type format, with split BTF.
//!
//! A module's BTF continues vmlinux's: its type ids and string offsets start where those of the base end. vmlinux has well over
//! 100,000 types in 5 MB, of which some ten are wanted: so the types stay in the file, and only the strings and one offset per
//! type are kept in memory.
//!
//! Format: Documentation/bpf/btf.rst of the kernel.

use std::{cell::RefCell, collections::HashMap, fs::File, os::unix::fs::FileExt as _, path::Path};

use anyhow::{bail, ensure, Context as _, Result};

const MAGIC: u16 = 0xeb9f;

/// Members that are looked at to find one: more than any struct of the kernel has, with those of anonymous structs within it. A struct
/// that is within itself has no end.
const MOST_MEMBERS: u32 = 1 << 16;
const HEADER_BYTES: usize = 24;

/// `btf_type.info` bits 24 to 28.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// Where the bytes are.
enum Source {
    Memory(Vec<u8>),
    File {
        file: File,
        /// Offset and bytes of what was read last.
        window: RefCell<(u64, Vec<u8>)>,
    },
}

/// The kernel hands out its BTF a page at a time.
const WINDOW_BYTES: usize = 4096;

impl Source {
    fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        match self {
            Self::Memory(bytes) => {
                let end = at.checked_add(into.len()).context("BTF offset overflows")?;
                into.copy_from_slice(bytes.get(at..end).context("BTF ends too early")?);
                Ok(())
            }
            Self::File { file, .. } => file
                .read_exact_at(into, at as u64)
                .context("BTF ends too early"),
        }
    }

    fn u32_at(&self, at: usize) -> Result<u32> {
        let mut word = [0; 4];
        if let Self::File { file, window } = self {
            let at = at as u64;
            let (start, bytes) = &mut *window.borrow_mut();
            if at < *start || at + 4 > *start + bytes.len() as u64 {
                bytes.resize(WINDOW_BYTES, 0);
                let length = file.read_at(bytes, at).context("reading BTF")?;
                bytes.truncate(length);
                *start = at;
            }
            let within = usize::try_from(at - *start)?;
            word.copy_from_slice(
                bytes
                    .get(within..within + 4)
                    .context("BTF ends too early")?,
            );
        } else {
            self.read(at, &mut word)?;
        }
        Ok(u32::from_ne_bytes(word))
    }
}

/// The BTF of vmlinux, or of a module on top of it.
pub struct Btf<'b> {
    base: Option<&'b Btf<'b>>,
    source: Source,
    strings: Vec<u8>,
    /// Offset in `source` of each type, from `first_id`.
    offsets: Vec<u32>,
    first_id: u32,
    first_string: u32,
}

/// A decoded `struct btf_type` and where its data starts.
#[derive(Clone, Copy)]
struct Type<'a> {
    btf: &'a Btf<'a>,
    name: u32,
    kind: u32,
    kind_flag: bool,
    vlen: usize,
    size_or_type: u32,
    data: usize,
}

impl<'b> Btf<'b> {
    /// The raw BTF in a file: of a module on top of that of its base, or of vmlinux where there is none.
    ///
    /// # Errors
    /// When the file cannot be read, is not BTF of this machine's byte order, or ends too early.
    pub fn open(path: &Path, base: Option<&'b Btf<'b>>) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let bytes = file
            .metadata()
            .with_context(|| format!("reading {}", path.display()))?
            .len();
        let source = Source::File {
            file,
            window: RefCell::default(),
        };
        Self::new(source, usize::try_from(bytes)?, base)
            .with_context(|| format!("the BTF in {}", path.display()))
    }

    /// As [`Btf::open`], from bytes.
    ///
    /// # Errors
    /// When the bytes are not BTF of this machine's byte order, or end too early.
    pub fn parse(data: Vec<u8>, base: Option<&'b Btf<'b>>) -> Result<Self> {
        let bytes = data.len();
        Self::new(Source::Memory(data), bytes, base)
    }

    fn new(source: Source, bytes: usize, base: Option<&'b Btf<'b>>) -> Result<Self> {
        ensure!(bytes >= HEADER_BYTES, "BTF ends in its header");
        let mut magic = [0; 2];
        source.read(0, &mut magic)?;
        let magic = u16::from_ne_bytes(magic);
        ensure!(
            magic == MAGIC,
            "not BTF of this machine's byte order (magic {magic:#x})"
        );
        let header = source.u32_at(4)? as usize;
        let section = |offset: u32, length: u32| -> Result<std::ops::Range<usize>> {
            let start = header
                .checked_add(offset as usize)
                .context("BTF section offset overflows")?;
            let end = start
                .checked_add(length as usize)
                .context("BTF section size overflows")?;
            ensure!(end <= bytes, "BTF section ends at {end} of {bytes} bytes");
            Ok(start..end)
        };
        let types = section(source.u32_at(8)?, source.u32_at(12)?)?;
        let range = section(source.u32_at(16)?, source.u32_at(20)?)?;
        let mut strings = vec![0; range.len()];
        source.read(range.start, &mut strings)?;

        // 20 bytes a type is what they take in the kernel.
        let mut offsets = Vec::with_capacity(types.len() / 20);
        let mut at = types.start;
        while at < types.end {
            offsets.push(u32::try_from(at)?);
            at += 12 + data_bytes(source.u32_at(at + 4)?)?;
        }
        ensure!(at == types.end, "the last BTF type is cut off");
        Ok(Btf {
            base,
            source,
            strings,
            offsets,
            first_id: base.map_or(1, Btf::next_id),
            first_string: base.map_or(0, Btf::next_string),
        })
    }

    fn next_id(&self) -> u32 {
        self.first_id + self.offsets.len() as u32
    }

    fn next_string(&self) -> u32 {
        self.first_string + self.strings.len() as u32
    }

    fn u32_at(&self, at: usize) -> Result<u32> {
        self.source.u32_at(at)
    }

    /// A string by offset, as bytes.
    fn string(&self, offset: u32) -> &[u8] {
        if offset < self.first_string {
            return self.base.map_or(&[], |base| base.string(offset));
        }
        let rest = self
            .strings
            .get((offset - self.first_string) as usize..)
            .unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn type_at(&self, id: u32) -> Result<Type<'_>> {
        if id < self.first_id {
            return self
                .base
                .context("no base for a type id below the first")?
                .type_at(id);
        }
        let at = *self
            .offsets
            .get((id - self.first_id) as usize)
            .with_context(|| format!("no BTF type {id}"))? as usize;
        let info = self.u32_at(at + 4)?;
        Ok(Type {
            btf: self,
            name: self.u32_at(at)?,
            kind: kind_of(info),
            kind_flag: info >> 31 == 1,
            vlen: (info & 0xffff) as usize,
            size_or_type: self.u32_at(at + 8)?,
            data: at + 12,
        })
    }

    /// Ids of all types that are called one of the names and are a struct (`functions` false) or a function (true), in this
    /// BTF and not in its base. One pass over all types.
    fn find(&self, names: &[&str], functions: bool) -> HashMap<String, Vec<u32>> {
        let mut found: HashMap<String, Vec<u32>> = HashMap::new();
        for (id, at) in (self.first_id..).zip(&self.offsets) {
            let (Ok(name), Ok(info)) = (self.u32_at(*at as usize), self.u32_at(*at as usize + 4))
            else {
                continue;
            };
            let wanted = if functions { kind::FUNC } else { kind::STRUCT };
            if name == 0 || kind_of(info) != wanted {
                continue;
            }
            let name = self.string(name);
            if let Some(name) = names.iter().find(|wanted| wanted.as_bytes() == name) {
                found.entry((*name).to_owned()).or_default().push(id);
            }
        }
        found
    }

    /// Ids of the structs with these names, in this BTF and in its base. A module's own comes first.
    #[must_use]
    pub fn structs(&self, names: &[&str]) -> HashMap<String, Vec<u32>> {
        let mut found = self.find(names, false);
        if let Some(base) = self.base {
            for (name, ids) in base.find(names, false) {
                found.entry(name).or_default().extend(ids);
            }
        }
        found
    }

    /// Ids of the functions with these names in this BTF, not in its base.
    #[must_use]
    pub fn functions(&self, names: &[&str]) -> HashMap<String, u32> {
        // Two functions of one name: BTF cannot tell which, so neither counts.
        self.find(names, true)
            .into_iter()
            .filter(|(_, ids)| ids.len() == 1)
            .map(|(name, ids)| (name, ids[0]))
            .collect()
    }

    /// Size in bytes of a struct.
    ///
    /// # Errors
    /// When there is no such type.
    pub fn struct_bytes(&self, id: u32) -> Result<u32> {
        Ok(self.type_at(id)?.size_or_type)
    }

    /// Byte offset of a member of a struct. The path goes into embedded structs with dots, and through anonymous structs and
    /// unions without saying so. `None` where there is no such member.
    ///
    /// # Errors
    /// When the member is a bit field, or the BTF is broken.
    pub fn member_offset(&self, id: u32, path: &str) -> Result<Option<u32>> {
        let mut id = id;
        let mut offset = 0_u32;
        let mut left = MOST_MEMBERS;
        for name in path.split('.') {
            let Some((bits, member)) = self.member(id, name.as_bytes(), 0, &mut left)? else {
                return Ok(None);
            };
            ensure!(bits % 8 == 0, "{path} does not start at a byte");
            offset = offset
                .checked_add(bits / 8)
                .with_context(|| format!("{path} is too far away"))?;
            id = member;
        }
        Ok(Some(offset))
    }

    /// Bit offset and type of a member.
    fn member(
        &self,
        id: u32,
        wanted: &[u8],
        depth: u32,
        left: &mut u32,
    ) -> Result<Option<(u32, u32)>> {
        ensure!(depth < 32, "BTF nests too deep");
        let id = self.plain(id)?;
        let ty = self.type_at(id)?;
        if ty.kind != kind::STRUCT && ty.kind != kind::UNION {
            return Ok(None);
        }
        for index in 0..ty.vlen {
            *left = left.checked_sub(1).context("BTF nests without end")?;
            let at = ty.data + index * 12;
            let name = ty.btf.u32_at(at)?;
            let member = ty.btf.u32_at(at + 4)?;
            let word = ty.btf.u32_at(at + 8)?;
            let (bits, width) = if ty.kind_flag {
                (word & 0x00ff_ffff, word >> 24)
            } else {
                (word, 0)
            };
            if ty.btf.string(name) == wanted {
                ensure!(
                    width == 0,
                    "{} is a bit field",
                    String::from_utf8_lossy(wanted)
                );
                return Ok(Some((bits, member)));
            }
            if name == 0 {
                if let Some((inner, member)) = self.member(member, wanted, depth + 1, left)? {
                    let bits = bits
                        .checked_add(inner)
                        .context("a member is too far away")?;
                    return Ok(Some((bits, member)));
                }
            }
        }
        Ok(None)
    }

    /// The type behind typedefs and qualifiers.
    fn plain(&self, id: u32) -> Result<u32> {
        let mut id = id;
        for _ in 0..32 {
            let ty = self.type_at(id)?;
            match ty.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::TYPE_TAG => {
                    id = ty.size_or_type
                }
                _ => return Ok(id),
            }
        }
        bail!("BTF qualifiers nest too deep")
    }

    /// Number of parameters of a function, by the id of the function.
    ///
    /// # Errors
    /// When the id is not that of a function.
    pub fn parameters(&self, function: u32) -> Result<usize> {
        let function = self.type_at(function)?;
        ensure!(function.kind == kind::FUNC, "not a function");
        let proto = self.type_at(function.size_or_type)?;
        ensure!(
            proto.kind == kind::FUNC_PROTO,
            "a function without prototype"
        );
        Ok(proto.vlen)
    }

    /// Name of a type; empty for an anonymous one.
    ///
    /// # Errors
    /// When there is no such type.
    pub fn name(&self, id: u32) -> Result<String> {
        let ty = self.type_at(id)?;
        Ok(String::from_utf8_lossy(ty.btf.string(ty.name)).into_owned())
    }
}

fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Bytes that follow a `struct btf_type`.
fn data_bytes(info: u32) -> Result<usize> {
    let vlen = (info & 0xffff) as usize;
    Ok(match kind_of(info) {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => vlen * 12,
        kind::ENUM | kind::FUNC_PROTO => vlen * 8,
        // Pointer, forward, typedef, qualifiers, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        other => bail!("BTF kind {other} is newer than this program: update gpreempt, or use an offset profile"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes BTF for the tests.
    #[derive(Default)]
    pub(crate) struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
        first_string: u32,
    }

    impl Writer {
        pub(crate) fn base() -> Self {
            Self {
                strings: vec![0],
                ..Self::default()
            }
        }

        fn on(base: &Btf<'_>) -> Self {
            Self {
                first_string: base.next_string(),
                ..Self::default()
            }
        }

        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = self.first_string + self.strings.len() as u32;
            self.strings.extend(name.bytes());
            self.strings.push(0);
            at
        }

        fn words(&mut self, words: &[u32]) {
            for word in words {
                self.types.extend(word.to_ne_bytes());
            }
        }

        pub(crate) fn int(&mut self, name: &str, bytes: u32) {
            let name = self.name(name);
            self.words(&[name, 1 << 24, bytes, bytes * 8]);
        }

        /// Members: name, type id, bit offset.
        pub(crate) fn composite(
            &mut self,
            kind: u32,
            name: &str,
            bytes: u32,
            members: &[(&str, u32, u32)],
        ) {
            let name = self.name(name);
            let members: Vec<_> = members
                .iter()
                .map(|(name, ty, bits)| [self.name(name), *ty, *bits])
                .collect();
            self.words(&[name, kind << 24 | members.len() as u32, bytes]);
            for member in members {
                self.words(&member);
            }
        }

        fn of(&mut self, kind: u32, name: &str, ty: u32) {
            let name = self.name(name);
            self.words(&[name, kind << 24, ty]);
        }

        pub(crate) fn finish(self) -> Vec<u8> {
            let mut out = Vec::new();
            out.extend(MAGIC.to_ne_bytes());
            out.extend([1, 0]);
            for word in [
                24,
                0,
                self.types.len() as u32,
                self.types.len() as u32,
                self.strings.len() as u32,
            ] {
                out.extend(word.to_ne_bytes());
            }
            out.extend(self.types);
            out.extend(self.strings);
            out
        }
    }

    fn vmlinux() -> Vec<u8> {
        let mut w = Writer::base();
        w.int("int", 4); // 1
        w.composite(kind::STRUCT, "", 8, &[("deep", 1, 32)]); // 2
        w.composite(kind::UNION, "", 8, &[("other", 1, 0), ("", 2, 0)]); // 3
        w.composite(
            kind::STRUCT,
            "task_struct",
            24,
            &[("tgid", 1, 64), ("", 3, 128)],
        ); // 4
        w.of(kind::TYPEDEF, "task_t", 4); // 5
        w.finish()
    }

    #[test]
    fn members_are_found_through_anonymous_unions_and_structs() {
        let btf = Btf::parse(vmlinux(), None).unwrap();
        let id = btf.structs(&["task_struct"])["task_struct"][0];
        assert_eq!(btf.member_offset(id, "tgid").unwrap(), Some(8));
        assert_eq!(btf.member_offset(id, "other").unwrap(), Some(16));
        assert_eq!(btf.member_offset(id, "deep").unwrap(), Some(20));
        assert_eq!(btf.member_offset(id, "absent").unwrap(), None);
        assert_eq!(btf.struct_bytes(id).unwrap(), 24);
    }

    #[test]
    fn a_module_continues_ids_and_strings_of_its_base() {
        let base = Btf::parse(vmlinux(), None).unwrap();
        let mut w = Writer::on(&base);
        // Names can be in the base's strings, types in the base's types: 5 is task_t.
        w.composite(kind::STRUCT, "queue", 64, &[("id", 1, 0), ("task", 5, 256)]); // 6
        w.words(&[0, kind::FUNC_PROTO << 24 | 2, 1, 0, 1, 0, 1]); // 7
        w.of(kind::FUNC, "add_queue", 7); // 8
        let btf = Btf::parse(w.finish(), Some(&base)).unwrap();
        let structs = btf.structs(&["queue", "task_struct"]);
        assert_eq!(structs["queue"], [6]);
        assert_eq!(structs["task_struct"], [4]);
        assert_eq!(btf.member_offset(6, "task.deep").unwrap(), Some(32 + 20));
        assert_eq!(btf.name(5).unwrap(), "task_t");
        assert_eq!(
            btf.functions(&["add_queue", "del_queue"]),
            HashMap::from([("add_queue".to_owned(), 8)])
        );
        assert_eq!(btf.parameters(8).unwrap(), 2);
    }

    #[test]
    fn a_bit_field_has_no_byte_offset() {
        let mut w = Writer::base();
        w.int("int", 4);
        let name = w.name("flags");
        let field = w.name("bit");
        w.words(&[
            name,
            1 << 31 | kind::STRUCT << 24 | 1,
            4,
            field,
            1,
            1 << 24 | 3,
        ]);
        let btf = Btf::parse(w.finish(), None).unwrap();
        assert!(btf
            .member_offset(2, "bit")
            .unwrap_err()
            .to_string()
            .contains("bit field"));
    }

    #[test]
    fn a_file_reads_like_its_bytes() {
        let path = std::env::temp_dir().join(format!("gpreempt-btf-{}", std::process::id()));
        let mut w = Writer::base();
        w.int("int", 4);
        // More than a window, so that types lie across its end.
        for index in 0..1000 {
            w.composite(
                kind::STRUCT,
                &format!("struct_{index}"),
                4,
                &[("member", 1, 8 * index)],
            );
        }
        let bytes = w.finish();
        assert!(bytes.len() > 4 * WINDOW_BYTES);
        std::fs::write(&path, &bytes).unwrap();
        let memory = Btf::parse(bytes, None).unwrap();
        let file = Btf::open(&path, None).unwrap();
        std::fs::remove_file(&path).unwrap();
        for index in [0, 1, 500, 999] {
            let name = format!("struct_{index}");
            let id = file.structs(&[&name])[&name][0];
            assert_eq!(memory.structs(&[&name])[&name], [id]);
            assert_eq!(file.member_offset(id, "member").unwrap(), Some(index));
        }
    }

    #[test]
    fn cut_off_or_foreign_bytes_are_errors() {
        let whole = vmlinux();
        for length in 0..whole.len() {
            assert!(
                Btf::parse(whole[..length].to_vec(), None).is_err(),
                "{length} bytes parsed"
            );
        }
        let mut foreign = whole;
        foreign.swap(0, 1);
        assert!(Btf::parse(foreign, None).is_err());
    }
}
