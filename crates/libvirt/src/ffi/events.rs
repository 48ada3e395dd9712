//! What libvirt tells without being asked.

use std::ffi::{c_char, c_int, c_ulonglong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use super::{CallError, Connection, Job, Params, check, sys};

/// Something that libvirt told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A domain, by UUID, was defined, started, stopped, edited, or given or relieved of a device.
    DomainChanged(String),
    /// The same, and it was paused.
    DomainPaused(String),
    /// The same, and it was let run on.
    DomainResumed(String),
    /// A job on a domain ended well.
    JobCompleted(String, Job),
    /// A network or a storage pool was started, stopped, defined or changed.
    AroundChanged,
    /// The connection is gone, for this reason.
    Closed(&'static str),
}

type Listener = dyn Fn(News) + Send + Sync;

/// Starts the thread that libvirt's events and keepalives run on. There is one per process; it has
/// to be there before the first connection, and stays.
pub(crate) fn run_event_loop() -> Result<(), CallError> {
    static STARTED: OnceLock<Result<(), CallError>> = OnceLock::new();
    let start = || {
        // libvirt prints errors to stderr unless it has something else to do with them.
        // SAFETY: a function that ignores what it gets, with the signature asked for.
        unsafe { sys::virSetErrorFunc(std::ptr::null_mut(), Some(be_silent)) };
        // SAFETY: called once per process, before any connection is made here.
        check(unsafe { sys::virEventRegisterDefaultImpl() })?;
        let run = || loop {
            // SAFETY: the default implementation was registered, and runs on this thread only.
            if unsafe { sys::virEventRunDefaultImpl() } < 0 {
                tracing::warn!("libvirt's event loop: {}", CallError::last());
                // Without a pause a lasting failure would take a whole core.
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        };
        let spawned = std::thread::Builder::new().name("libvirt-events".to_owned()).spawn(run);
        spawned.map(drop).map_err(|error| {
            let message = format!("no thread for libvirt's events: {error}");
            CallError { code: sys::VIR_ERR_SYSTEM_ERROR, origin: 0, message }
        })
    };
    sys::is_installed().map_err(|message| CallError {
        code: sys::VIR_ERR_NO_CONNECT,
        origin: 0,
        message,
    })?;
    STARTED.get_or_init(start).clone()
}

unsafe extern "C" fn be_silent(_: *mut c_void, _: sys::virErrorPtr) {}

/// News of a connection, from when it is made until it is dropped.
pub(crate) struct Subscription {
    connection: Arc<Connection>,
    callbacks: Vec<c_int>,
    /// Of networks and of storage pools, where the daemon has their drivers.
    networks: Option<c_int>,
    pools: Option<c_int>,
    closing: bool,
}

impl Subscription {
    /// Calls `listener` on libvirt's event thread for everything that happens. It must not block,
    /// and must not call libvirt.
    pub(crate) fn new(
        connection: Arc<Connection>,
        listener: impl Fn(News) + Send + Sync + 'static,
    ) -> Result<Self, CallError> {
        let listener: Arc<Listener> = Arc::new(listener);
        let mut subscription =
            Self { connection, callbacks: Vec::new(), networks: None, pools: None, closing: false };
        subscription.watch_closing(&listener)?;
        type Any = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
        // SAFETY (of the transmutes): libvirt's API takes callbacks of every signature through
        // this one type and calls each as its event id says; the ids below belong to the functions.
        let (lifecycle, text, job) = unsafe {
            (
                std::mem::transmute::<Lifecycle, Any>(on_lifecycle),
                std::mem::transmute::<WithText, Any>(on_text),
                std::mem::transmute::<WithParams, Any>(on_job_completed),
            )
        };
        // SAFETY: as above.
        let (metadata, disk, job_of_disk, size) = unsafe {
            (
                std::mem::transmute::<WithMetadata, Any>(on_metadata),
                std::mem::transmute::<WithDisk, Any>(on_disk),
                std::mem::transmute::<WithBlockJob, Any>(on_block_job),
                std::mem::transmute::<WithSize, Any>(on_size),
            )
        };
        // SAFETY: as above.
        let tray = unsafe { std::mem::transmute::<WithTray, Any>(on_tray) };
        for (event, callback) in [
            (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
            (sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, metadata),
            (sys::VIR_DOMAIN_EVENT_ID_DISK_CHANGE, disk),
            (sys::VIR_DOMAIN_EVENT_ID_TRAY_CHANGE, tray),
            (sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, job_of_disk),
            (sys::VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE, size),
            (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, text),
            (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, text),
            (sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, job),
        ] {
            let opaque = leak(&listener);
            // SAFETY: connection and callback are valid; a null domain means all of them; `opaque`
            // is what the callbacks take it for, and `release` frees it when libvirt is done.
            let returned = check(unsafe {
                sys::virConnectDomainEventRegisterAny(
                    subscription.connection.as_ptr(),
                    std::ptr::null_mut(),
                    event as c_int,
                    Some(callback),
                    opaque,
                    Some(release),
                )
            });
            if returned.is_err() {
                // SAFETY: libvirt did not take it, so it is freed here.
                unsafe { release(opaque) };
            }
            match returned {
                // An older libvirt does not know every event.
                Err(error) if event == sys::VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE => {
                    tracing::debug!("sizes of memory devices are not told: {error}");
                }
                returned => subscription.callbacks.push(returned?),
            }
        }
        subscription.watch_around(&listener);
        Ok(subscription)
    }

    /// A daemon without drivers of networks and pools has none that could change.
    fn watch_around(&mut self, listener: &Arc<Listener>) {
        type Network = unsafe extern "C" fn(sys::virConnectPtr, sys::virNetworkPtr, *mut c_void);
        type Pool = unsafe extern "C" fn(sys::virConnectPtr, sys::virStoragePoolPtr, *mut c_void);
        let connection = self.connection.as_ptr();
        let (of_networks, of_pools) = (leak(listener), leak(listener));
        // SAFETY: as for domains: the ids belong to the functions, and what is passed along is freed by
        // `release` when libvirt is done with it, or here if it was not taken.
        unsafe {
            let network = std::mem::transmute::<OfNetwork, Network>(on_network);
            let pool = std::mem::transmute::<OfPool, Pool>(on_pool);
            self.networks = check(sys::virConnectNetworkEventRegisterAny(
                connection,
                std::ptr::null_mut(),
                sys::VIR_NETWORK_EVENT_ID_LIFECYCLE as c_int,
                Some(network),
                of_networks,
                Some(release),
            ))
            .ok();
            self.pools = check(sys::virConnectStoragePoolEventRegisterAny(
                connection,
                std::ptr::null_mut(),
                sys::VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE as c_int,
                Some(pool),
                of_pools,
                Some(release),
            ))
            .ok();
            if self.networks.is_none() {
                release(of_networks);
            }
            if self.pools.is_none() {
                release(of_pools);
            }
        }
    }

    fn watch_closing(&mut self, listener: &Arc<Listener>) -> Result<(), CallError> {
        let opaque = leak(listener);
        // SAFETY: connection and callback are valid, and `release` frees what is passed along.
        let returned = check(unsafe {
            sys::virConnectRegisterCloseCallback(
                self.connection.as_ptr(),
                Some(on_closed),
                opaque,
                Some(release),
            )
        });
        if returned.is_err() {
            // SAFETY: libvirt did not take it, so it is freed here.
            unsafe { release(opaque) };
        }
        self.closing = returned.is_ok();
        returned.map(drop)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let connection = self.connection.as_ptr();
        for &callback in &self.callbacks {
            // SAFETY: registered on this connection and not deregistered before.
            unsafe { sys::virConnectDomainEventDeregisterAny(connection, callback) };
        }
        if let Some(callback) = self.networks {
            // SAFETY: as above.
            unsafe { sys::virConnectNetworkEventDeregisterAny(connection, callback) };
        }
        if let Some(callback) = self.pools {
            // SAFETY: as above.
            unsafe { sys::virConnectStoragePoolEventDeregisterAny(connection, callback) };
        }
        if self.closing {
            // SAFETY: as above.
            unsafe { sys::virConnectUnregisterCloseCallback(connection, Some(on_closed)) };
        }
    }
}

/// The listener as the pointer that callbacks get: an `Arc` of its own for each.
fn leak(listener: &Arc<Listener>) -> *mut c_void {
    Box::into_raw(Box::new(Arc::clone(listener))).cast()
}

/// # Safety
/// `opaque` comes from [`leak`], and is not used after.
unsafe extern "C" fn release(opaque: *mut c_void) {
    // SAFETY: as the caller promises; libvirt calls this once, after the last callback.
    drop(unsafe { Box::from_raw(opaque.cast::<Arc<Listener>>()) });
}

/// # Safety
/// `opaque` comes from [`leak`] and was not released.
unsafe fn tell(opaque: *mut c_void, news: impl FnOnce() -> Option<News>) {
    // SAFETY: as the caller promises.
    let listener = unsafe { &*opaque.cast::<Arc<Listener>>() };
    // A panic must not unwind into C.
    let told = catch_unwind(AssertUnwindSafe(|| {
        if let Some(news) = news() {
            listener(news);
        }
    }));
    if told.is_err() {
        tracing::error!("a listener to libvirt's events panicked");
    }
}

type Lifecycle =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type WithText =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, *mut c_void);
type WithMetadata =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, *const c_char, *mut c_void);
type WithTray =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, c_int, *mut c_void);
type WithDisk = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    *const c_char,
    *const c_char,
    *const c_char,
    c_int,
    *mut c_void,
);
type WithBlockJob = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    *const c_char,
    c_int,
    c_int,
    *mut c_void,
);
type WithSize = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    *const c_char,
    c_ulonglong,
    *mut c_void,
);
type OfNetwork =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virNetworkPtr, c_int, c_int, *mut c_void);
type OfPool =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virStoragePoolPtr, c_int, c_int, *mut c_void);
type WithParams = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    sys::virTypedParameterPtr,
    c_int,
    *mut c_void,
);

fn changed(domain: sys::virDomainPtr) -> Option<News> {
    super::domain::uuid(domain).map(News::DomainChanged)
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let news = match u32::try_from(event) {
        Ok(sys::VIR_DOMAIN_EVENT_SUSPENDED) => News::DomainPaused,
        Ok(sys::VIR_DOMAIN_EVENT_RESUMED) => News::DomainResumed,
        _ => News::DomainChanged,
    };
    // SAFETY: libvirt passes what was registered; the domain lives during the call.
    unsafe { tell(opaque, || super::domain::uuid(domain).map(news)) };
    0
}

unsafe extern "C" fn on_text(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(opaque, || changed(domain)) };
}

unsafe extern "C" fn on_metadata(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _kind: c_int,
    _namespace: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(opaque, || changed(domain)) };
}

unsafe extern "C" fn on_tray(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _alias: *const c_char,
    _reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(opaque, || changed(domain)) };
}

unsafe extern "C" fn on_disk(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _old: *const c_char,
    _new: *const c_char,
    _alias: *const c_char,
    _reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(opaque, || changed(domain)) };
}

unsafe extern "C" fn on_block_job(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _disk: *const c_char,
    _kind: c_int,
    _status: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(opaque, || changed(domain)) };
}

unsafe extern "C" fn on_size(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _alias: *const c_char,
    _size: c_ulonglong,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(opaque, || changed(domain)) };
}

unsafe extern "C" fn on_network(
    _: sys::virConnectPtr,
    _: sys::virNetworkPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(opaque, || Some(News::AroundChanged)) };
}

unsafe extern "C" fn on_pool(
    _: sys::virConnectPtr,
    _: sys::virStoragePoolPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(opaque, || Some(News::AroundChanged)) };
}

unsafe extern "C" fn on_job_completed(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    params: sys::virTypedParameterPtr,
    count: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as above; the parameters live during the call.
    unsafe {
        tell(opaque, || {
            let job = Job::read(&Params::new(params, count));
            super::domain::uuid(domain).map(|uuid| News::JobCompleted(uuid, job))
        });
    }
}

unsafe extern "C" fn on_closed(_: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    let reason = match u32::try_from(reason) {
        Ok(sys::VIR_CONNECT_CLOSE_REASON_EOF) => "libvirt closed the connection",
        Ok(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE) => "libvirt does not answer keepalives",
        _ => "the connection to libvirt failed",
    };
    // SAFETY: libvirt passes what was registered.
    unsafe { tell(opaque, || Some(News::Closed(reason))) };
}
