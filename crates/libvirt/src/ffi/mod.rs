//! libvirt's C library, made safe. The only place with `unsafe` code.
//!
//! Thin on purpose: one method per call that Evenkeel makes, and nothing decided. Handles are
//! reference-counted by libvirt and may be used from several threads at once, as libvirt documents
//! ("thread safe … from the same connection or different ones"); errors are kept per thread.
//!
//! Written over `virt-sys` alone, because the safe wrapper around it leaks statistics records and
//! migration parameters, and panics on text with a NUL.
#![allow(unsafe_code)]

mod connection;
mod domain;
mod events;
mod sys;

use std::ffi::{CStr, CString, c_char, c_void};

pub(crate) use connection::Connection;
pub use connection::all_closed;
pub(crate) use domain::{Domain, Ending, Job, MigrateCall, Pause, State};
pub(crate) use events::{News, Subscription, run_event_loop};

/// What libvirt said when a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CallError {
    /// `VIR_ERR_*`.
    pub(crate) code: u32,
    /// `VIR_FROM_*`: the part of libvirt that failed.
    pub(crate) origin: u32,
    /// Its words.
    pub(crate) message: String,
}

impl CallError {
    /// The error of the last call on this thread.
    fn last() -> Self {
        if let Some(function) = sys::take_missing() {
            let message = format!("this version of libvirt has no {function}");
            return Self { code: sys::VIR_ERR_NO_SUPPORT, origin: 0, message };
        }
        // SAFETY: returns a pointer owned by this thread's state, or null; nothing is kept of it
        // beyond this function, in which no other libvirt call is made.
        let error = unsafe { sys::virGetLastError().as_ref() };
        let Some(error) = error else {
            let message = "an unknown libvirt error".to_owned();
            return Self { code: sys::VIR_ERR_INTERNAL_ERROR, origin: 0, message };
        };
        let message = if error.message.is_null() {
            format!("libvirt error {}", error.code)
        } else {
            // SAFETY: not null, so a NUL-terminated text that lives as long as the error.
            unsafe { CStr::from_ptr(error.message) }.to_string_lossy().into_owned()
        };
        Self { code: error.code as u32, origin: error.domain as u32, message }
    }

    /// A connection that is gone.
    pub(crate) fn lost(message: String) -> Self {
        Self { code: sys::VIR_ERR_NO_CONNECT, origin: 0, message }
    }

    fn nul(what: &str) -> Self {
        let message = format!("{what} holds a NUL character");
        Self { code: sys::VIR_ERR_INVALID_ARG, origin: 0, message }
    }
}

/// A value of one of libvirt's named parameters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Any of the integer types; negative ones are of no interest here and read as 0.
    Number(u64),
    /// Anything else.
    Other,
}

/// Named parameters, borrowed from libvirt.
pub(crate) struct Params<'a>(&'a [sys::virTypedParameter]);

impl<'a> Params<'a> {
    /// # Safety
    /// `params` points to `count` parameters that live for `'a`, or `count` is not above 0.
    unsafe fn new(params: sys::virTypedParameterPtr, count: i32) -> Self {
        match usize::try_from(count) {
            Ok(count) if count > 0 && !params.is_null() => {
                // SAFETY: as the caller promises.
                Self(unsafe { std::slice::from_raw_parts(params, count) })
            }
            _ => Self(&[]),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a str, Value)> + use<'a> {
        self.0.iter().filter_map(|param| {
            // SAFETY: c_char and u8 have the same layout, and the slice is that of the array.
            let name: &'a [u8] = unsafe {
                std::slice::from_raw_parts(param.field.as_ptr().cast(), param.field.len())
            };
            let name = CStr::from_bytes_until_nul(name).ok()?.to_str().ok()?;
            // SAFETY: `type_` says which member of the union libvirt has written.
            let value = unsafe {
                match param.type_ as u32 {
                    sys::VIR_TYPED_PARAM_INT => number(param.value.i),
                    sys::VIR_TYPED_PARAM_UINT => number(param.value.ui),
                    sys::VIR_TYPED_PARAM_LLONG => number(param.value.l),
                    sys::VIR_TYPED_PARAM_ULLONG => number(param.value.ul),
                    _ => Value::Other,
                }
            };
            Some((name, value))
        })
    }
}

fn number(value: impl TryInto<u64>) -> Value {
    Value::Number(value.try_into().unwrap_or(0))
}

/// A text for libvirt; the error names `what` it is.
fn text(what: &str, value: &str) -> Result<CString, CallError> {
    CString::new(value).map_err(|_| CallError::nul(what))
}

/// Takes over a text that libvirt has allocated.
///
/// # Safety
/// `value` is null or a NUL-terminated text allocated by libvirt that nobody else frees.
unsafe fn take_text(value: *mut c_char) -> Result<String, CallError> {
    if value.is_null() {
        return Err(CallError::last());
    }
    // SAFETY: not null, so a NUL-terminated text, by the caller's promise.
    let copied = unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned();
    // SAFETY: libvirt documents that the caller frees it, with `free`; it is not used after.
    unsafe { free(value.cast()) };
    Ok(copied)
}

/// Turns libvirt's return value, negative on failure, into a result.
fn check(returned: i32) -> Result<i32, CallError> {
    if returned < 0 { Err(CallError::last()) } else { Ok(returned) }
}

unsafe extern "C" {
    /// The C library's; libvirt hands out what is to be freed with it.
    fn free(pointer: *mut c_void);
}
