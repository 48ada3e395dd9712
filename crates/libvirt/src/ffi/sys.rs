//! libvirt's functions, found in its library when the first of them is called.
//!
//! The program is not linked with libvirt: it starts without it, and says then which package is missing. A
//! function that an older libvirt does not have fails as a call does, with an error that says so. Types and
//! constants are those of `virt-sys`; a function of the same name here takes the place of its own.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_ulong, c_ulonglong, c_void};
use std::ptr;
use std::sync::OnceLock;

use libloading::Library;
pub(crate) use virt_sys::*;

/// Where the dynamic loader finds libvirt; the number has been the same since its first release.
const LIBRARY: &str = "libvirt.so.0";

/// The library. Once loaded it stays for the life of the process; until then each call tries again, so
/// that an agent need not be restarted when libvirt is installed.
fn library() -> Result<&'static Library, String> {
    static LOADED: OnceLock<Library> = OnceLock::new();
    if let Some(library) = LOADED.get() {
        return Ok(library);
    }
    // SAFETY: libvirt's initialisers may run at any time and on any thread; it is never unloaded.
    let library = unsafe { Library::new(LIBRARY) }.map_err(|error| error.to_string())?;
    Ok(LOADED.get_or_init(|| library))
}

/// Whether libvirt is here. It is asked before the first call, so that what is missing is told by name.
///
/// # Errors
/// What to install.
pub(super) fn is_installed() -> Result<(), String> {
    library().map(drop).map_err(|why| {
        format!(
            "libvirt is not installed on this host: install the package `libvirt0` (Debian, \
             Ubuntu) or `libvirt-libs` (Fedora, EL) ({why})"
        )
    })
}

thread_local! {
    /// The function that the last call on this thread did not find.
    static MISSING: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The function that the last failed call on this thread did not find in libvirt; told once.
pub(super) fn take_missing() -> Option<&'static str> {
    MISSING.take()
}

/// What a call returns that could not be made: what libvirt returns for a failure.
trait Failed {
    const FAILED: Self;
}

impl Failed for () {
    const FAILED: Self = ();
}

impl Failed for c_int {
    const FAILED: Self = -1;
}

impl Failed for c_uint {
    const FAILED: Self = c_uint::MAX;
}

impl<T> Failed for *mut T {
    const FAILED: Self = ptr::null_mut();
}

impl<T> Failed for *const T {
    const FAILED: Self = ptr::null();
}

/// The type that a function returns, nothing being `()`.
macro_rules! returned {
    () => {
        ()
    };
    ($kind:ty) => {
        $kind
    };
}

/// Defines functions that call libvirt's of the same name and signature.
macro_rules! functions {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) $(-> $returned:ty)?;)*) => {
        $(
            #[allow(non_snake_case, clippy::too_many_arguments, reason = "libvirt's")]
            pub(super) unsafe fn $name($($argument: $kind),*) $(-> $returned)? {
                type Function = unsafe extern "C" fn($($kind),*) $(-> $returned)?;
                static FOUND: OnceLock<Option<Function>> = OnceLock::new();
                let find = |library: &Library| {
                    let name = concat!(stringify!($name), "\0");
                    // SAFETY: the signature is the one that libvirt declares for this name.
                    let symbol = unsafe { library.get::<Function>(name.as_bytes()) };
                    symbol.ok().map(|symbol| *symbol)
                };
                let found = library().ok().and_then(|library| *FOUND.get_or_init(|| find(library)));
                let Some(function) = found else {
                    MISSING.set(Some(stringify!($name)));
                    return <returned!($($returned)?) as Failed>::FAILED;
                };
                // SAFETY: as the caller promises.
                unsafe { function($($argument),*) }
            }
        )*
    };
}

functions! {
    fn virConnectBaselineHypervisorCPU(conn: virConnectPtr, emulator: *const c_char, arch: *const c_char, machine: *const c_char, virttype: *const c_char, xml_cpus: *mut *const c_char, ncpus: c_uint, flags: c_uint) -> *mut c_char;
    fn virConnectClose(conn: virConnectPtr) -> c_int;
    fn virConnectCompareHypervisorCPU(conn: virConnectPtr, emulator: *const c_char, arch: *const c_char, machine: *const c_char, virttype: *const c_char, xml_cpu: *const c_char, flags: c_uint) -> c_int;
    fn virConnectDomainEventDeregisterAny(conn: virConnectPtr, callback_id: c_int) -> c_int;
    fn virConnectDomainEventRegisterAny(conn: virConnectPtr, dom: virDomainPtr, event_i_d: c_int, cb: virConnectDomainEventGenericCallback, opaque: *mut c_void, freecb: virFreeCallback) -> c_int;
    fn virConnectGetAllDomainStats(conn: virConnectPtr, stats: c_uint, ret_stats: *mut *mut virDomainStatsRecordPtr, flags: c_uint) -> c_int;
    fn virConnectGetCapabilities(conn: virConnectPtr) -> *mut c_char;
    fn virConnectGetDomainCapabilities(conn: virConnectPtr, emulatorbin: *const c_char, arch: *const c_char, machine: *const c_char, virttype: *const c_char, flags: c_uint) -> *mut c_char;
    fn virConnectGetLibVersion(conn: virConnectPtr, lib_ver: *mut c_ulong) -> c_int;
    fn virConnectGetVersion(conn: virConnectPtr, hv_ver: *mut c_ulong) -> c_int;
    fn virConnectIsAlive(conn: virConnectPtr) -> c_int;
    fn virConnectListAllDomains(conn: virConnectPtr, domains: *mut *mut virDomainPtr, flags: c_uint) -> c_int;
    fn virConnectListAllNetworks(conn: virConnectPtr, nets: *mut *mut virNetworkPtr, flags: c_uint) -> c_int;
    fn virConnectListAllStoragePools(conn: virConnectPtr, pools: *mut *mut virStoragePoolPtr, flags: c_uint) -> c_int;
    fn virConnectNetworkEventDeregisterAny(conn: virConnectPtr, callback_id: c_int) -> c_int;
    fn virConnectNetworkEventRegisterAny(conn: virConnectPtr, net: virNetworkPtr, event_i_d: c_int, cb: virConnectNetworkEventGenericCallback, opaque: *mut c_void, freecb: virFreeCallback) -> c_int;
    fn virConnectOpen(name: *const c_char) -> virConnectPtr;
    fn virConnectOpenReadOnly(name: *const c_char) -> virConnectPtr;
    fn virConnectRegisterCloseCallback(conn: virConnectPtr, cb: virConnectCloseFunc, opaque: *mut c_void, freecb: virFreeCallback) -> c_int;
    fn virConnectSetKeepAlive(conn: virConnectPtr, interval: c_int, count: c_uint) -> c_int;
    fn virConnectStoragePoolEventDeregisterAny(conn: virConnectPtr, callback_id: c_int) -> c_int;
    fn virConnectStoragePoolEventRegisterAny(conn: virConnectPtr, pool: virStoragePoolPtr, event_i_d: c_int, cb: virConnectStoragePoolEventGenericCallback, opaque: *mut c_void, freecb: virFreeCallback) -> c_int;
    fn virConnectUnregisterCloseCallback(conn: virConnectPtr, cb: virConnectCloseFunc) -> c_int;
    fn virDomainAbortJob(dom: virDomainPtr) -> c_int;
    fn virDomainCreate(domain: virDomainPtr) -> c_int;
    fn virDomainDestroyFlags(domain: virDomainPtr, flags: c_uint) -> c_int;
    fn virDomainFree(domain: virDomainPtr) -> c_int;
    fn virDomainGetBlockInfo(dom: virDomainPtr, disk: *const c_char, info: virDomainBlockInfoPtr, flags: c_uint) -> c_int;
    fn virDomainGetID(domain: virDomainPtr) -> c_uint;
    fn virDomainGetJobStats(domain: virDomainPtr, kind: *mut c_int, params: *mut virTypedParameterPtr, nparams: *mut c_int, flags: c_uint) -> c_int;
    fn virDomainGetState(domain: virDomainPtr, state: *mut c_int, reason: *mut c_int, flags: c_uint) -> c_int;
    fn virDomainGetUUIDString(domain: virDomainPtr, buf: *mut c_char) -> c_int;
    fn virDomainGetXMLDesc(domain: virDomainPtr, flags: c_uint) -> *mut c_char;
    fn virDomainHasManagedSaveImage(dom: virDomainPtr, flags: c_uint) -> c_int;
    fn virDomainIsActive(dom: virDomainPtr) -> c_int;
    fn virDomainIsPersistent(dom: virDomainPtr) -> c_int;
    fn virDomainListAllCheckpoints(domain: virDomainPtr, checkpoints: *mut *mut virDomainCheckpointPtr, flags: c_uint) -> c_int;
    fn virDomainListGetStats(doms: *mut virDomainPtr, stats: c_uint, ret_stats: *mut *mut virDomainStatsRecordPtr, flags: c_uint) -> c_int;
    fn virDomainLookupByName(conn: virConnectPtr, name: *const c_char) -> virDomainPtr;
    fn virDomainLookupByUUIDString(conn: virConnectPtr, uuid: *const c_char) -> virDomainPtr;
    fn virDomainMigrateToURI3(domain: virDomainPtr, dconnuri: *const c_char, params: virTypedParameterPtr, nparams: c_uint, flags: c_uint) -> c_int;
    fn virDomainResume(domain: virDomainPtr) -> c_int;
    fn virDomainSetAutostart(domain: virDomainPtr, autostart: c_int) -> c_int;
    fn virDomainSetMetadata(domain: virDomainPtr, kind: c_int, metadata: *const c_char, key: *const c_char, uri: *const c_char, flags: c_uint) -> c_int;
    fn virDomainSnapshotNum(domain: virDomainPtr, flags: c_uint) -> c_int;
    fn virDomainStatsRecordListFree(stats: *mut virDomainStatsRecordPtr);
    fn virDomainUndefineFlags(domain: virDomainPtr, flags: c_uint) -> c_int;
    fn virEventRegisterDefaultImpl() -> c_int;
    fn virEventRunDefaultImpl() -> c_int;
    fn virGetLastError() -> virErrorPtr;
    fn virNetworkFree(network: virNetworkPtr) -> c_int;
    fn virNetworkGetXMLDesc(network: virNetworkPtr, flags: c_uint) -> *mut c_char;
    fn virNodeGetInfo(conn: virConnectPtr, info: virNodeInfoPtr) -> c_int;
    fn virSecretFree(secret: virSecretPtr) -> c_int;
    fn virSecretLookupByUUIDString(conn: virConnectPtr, uuid: *const c_char) -> virSecretPtr;
    fn virSecretLookupByUsage(conn: virConnectPtr, usage_type: c_int, usage_id: *const c_char) -> virSecretPtr;
    fn virSetErrorFunc(user_data: *mut c_void, handler: virErrorFunc);
    fn virStoragePoolFree(pool: virStoragePoolPtr) -> c_int;
    fn virStoragePoolGetInfo(vol: virStoragePoolPtr, info: virStoragePoolInfoPtr) -> c_int;
    fn virStoragePoolGetXMLDesc(pool: virStoragePoolPtr, flags: c_uint) -> *mut c_char;
    fn virStoragePoolLookupByName(conn: virConnectPtr, name: *const c_char) -> virStoragePoolPtr;
    fn virStoragePoolRefresh(pool: virStoragePoolPtr, flags: c_uint) -> c_int;
    fn virStorageVolDelete(vol: virStorageVolPtr, flags: c_uint) -> c_int;
    fn virStorageVolFree(vol: virStorageVolPtr) -> c_int;
    fn virStorageVolLookupByName(pool: virStoragePoolPtr, name: *const c_char) -> virStorageVolPtr;
    fn virTypedParamsAddString(params: *mut virTypedParameterPtr, nparams: *mut c_int, maxparams: *mut c_int, name: *const c_char, value: *const c_char) -> c_int;
    fn virTypedParamsAddULLong(params: *mut virTypedParameterPtr, nparams: *mut c_int, maxparams: *mut c_int, name: *const c_char, value: c_ulonglong) -> c_int;
    fn virTypedParamsFree(params: virTypedParameterPtr, nparams: c_int);
}

#[cfg(test)]
mod tests {
    use super::super::CallError;
    use super::*;

    functions! {
        fn virOfAnotherCentury(number: c_int) -> *mut c_char;
    }

    #[test]
    fn a_function_that_this_libvirt_does_not_have_fails_with_an_error_that_names_it() {
        // SAFETY: there is no such function, so that nothing is called.
        assert!(unsafe { virOfAnotherCentury(1) }.is_null());
        let error = CallError::last();
        assert_eq!(error.code, VIR_ERR_NO_SUPPORT);
        assert!(error.message.contains("virOfAnotherCentury"), "{error}");
        assert!(!CallError::last().message.contains("virOfAnotherCentury"), "told twice");
    }
}
