// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pointers of C to references of Rust, after the checks that can be made: null, misaligned, absurdly long. What a pointer points
//! at cannot be checked; that is what the caller promises.

use std::ffi::{c_char, CStr};
use std::path::PathBuf;

use crate::error::{Error, Result};

/// More elements than any machine has queues or processes.
const MOST: usize = 1 << 20;

fn check<T>(pointer: *const T, name: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Error::invalid(format!("{name} is misaligned")));
    }
    Ok(())
}

fn check_array<T>(pointer: *const T, count: usize, name: &str) -> Result<()> {
    if count > MOST {
        return Err(Error::invalid(format!("{count} {name} are absurd")));
    }
    check(pointer, name)
}

/// What an array of the caller's holds; none if it has no elements.
///
/// # Safety
/// If it passes the checks, it is readable for `count` elements, which any bytes are.
pub(crate) unsafe fn read_array<T: Copy>(
    pointer: *const T,
    count: usize,
    name: &str,
) -> Result<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    check_array(pointer, count, name)?;
    // SAFETY: as the caller promises. Copied at once: another thread of the program may change it later.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) }.to_vec())
}

/// Writes the beginning of an array of the caller's, which may be absent.
///
/// # Safety
/// If it passes the checks, it is writable for `values.len()` elements.
pub(crate) unsafe fn write_array<T: Copy>(pointer: *mut T, values: &[T], name: &str) -> Result<()> {
    if pointer.is_null() || values.is_empty() {
        return Ok(());
    }
    check_array(pointer, values.len(), name)?;
    // SAFETY: as the caller promises; our values are no part of the caller's array.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), pointer, values.len()) };
    Ok(())
}

/// Fails if an absent or writable array cannot be written later, so that nothing is done before that is known.
pub(crate) fn check_optional<T>(pointer: *mut T, count: usize, name: &str) -> Result<()> {
    match pointer.is_null() || count == 0 {
        true => Ok(()),
        false => check_array(pointer, count, name),
    }
}

/// Fails unless one value can be written there.
pub(crate) fn check_out<T>(pointer: *mut T, name: &str) -> Result<()> {
    check(pointer, name)
}

/// Writes a value that may be absent.
///
/// # Safety
/// If it is not null and aligned, it is writable.
pub(crate) unsafe fn write<T>(pointer: *mut T, value: T, name: &str) -> Result<()> {
    if pointer.is_null() {
        return Ok(());
    }
    check(pointer, name)?;
    // SAFETY: as the caller promises.
    unsafe { pointer.write(value) };
    Ok(())
}

/// Reads a value.
///
/// # Safety
/// If it is not null and aligned, it is readable.
pub(crate) unsafe fn read<T: Copy>(pointer: *const T, name: &str) -> Result<T> {
    check(pointer, name)?;
    // SAFETY: as the caller promises.
    Ok(unsafe { pointer.read() })
}

/// Least size of a struct that says its own: that member and the one after it.
const LEAST: usize = 8;

/// Size that a struct of the caller's says in its first member, if it can be one.
///
/// # Safety
/// If it is not null and aligned, its first four bytes are readable.
unsafe fn size_of_versioned<T>(pointer: *const T, name: &str) -> Result<usize> {
    check(pointer, name)?;
    // SAFETY: as the caller promises; every struct with a version is aligned for and begins with a u32.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    // A page is more than any version will have: that is a struct_size which was not set.
    if !(LEAST..=4096).contains(&size) {
        return Err(Error::invalid(format!(
            "{name}: struct_size is {size}; set it to the size of the struct"
        )));
    }
    Ok(size)
}

/// Reads a struct whose first member is its size: an older caller's is shorter and has `default` at its end, a newer caller's may
/// be longer and must have zeros there.
///
/// # Safety
/// If it is not null and aligned, it is readable for as many bytes as its first member says. Any bytes are a `T`.
pub(crate) unsafe fn read_versioned<T: Copy>(
    pointer: *const T,
    default: T,
    name: &str,
) -> Result<T> {
    // SAFETY: as the caller promises.
    let size = unsafe { size_of_versioned(pointer, name) }?;
    let mut value = default;
    let known = size.min(size_of::<T>());
    // SAFETY: as the caller promises; `known` is no more than either of the two has.
    unsafe {
        std::ptr::copy_nonoverlapping(
            pointer.cast::<u8>(),
            std::ptr::from_mut(&mut value).cast::<u8>(),
            known,
        );
    }
    // SAFETY: the caller says that it has `size` bytes, of which `known` are the first.
    let rest = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Error::invalid(format!(
            "{name} asks for what this version of the library does not know"
        )));
    }
    Ok(value)
}

/// Fills a struct whose first member is its size, as far as the caller knows it.
///
/// # Safety
/// If it is not null and aligned, it is writable for as many bytes as its first member says.
pub(crate) unsafe fn write_versioned<T: Copy>(pointer: *mut T, value: T, name: &str) -> Result<()> {
    // SAFETY: as the caller promises.
    let size = unsafe { size_of_versioned(pointer, name) }?;
    let known = size.min(size_of::<T>());
    // SAFETY: as the caller promises; `known` is no more than either of the two has. The first member is set after that.
    unsafe {
        std::ptr::copy_nonoverlapping(
            std::ptr::from_ref(&value).cast::<u8>(),
            pointer.cast::<u8>(),
            known,
        );
        pointer.cast::<u32>().write(known as u32);
    }
    Ok(())
}

/// A path, if there is one.
///
/// # Safety
/// If it is not null, it ends with a NUL.
pub(crate) unsafe fn path(pointer: *const c_char) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    if pointer.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(std::ffi::OsStr::from_bytes(text.to_bytes()).into())
}
