//! Envoy's dynamic-module ABI, as its public header defines it: the hooks that Envoy calls, and the
//! callbacks that it offers. The only file with `unsafe`.
#![allow(unsafe_code)]

#[deny(unsafe_code)]
mod check_threads;
#[deny(unsafe_code)]
mod config;
#[deny(unsafe_code)]
mod filter;
#[deny(unsafe_code)]
mod log;

use std::ffi::{c_char, c_void};
use std::rc::Rc;
use std::sync::Arc;

use tracing::Level;

use crate::abi::config::{FilterConfig, RouteConfig};
use crate::abi::filter::Filter;
use crate::answer::Answer;
use crate::hook::{Hook, guarded, inject};

/// The oldest version that has everything used here. Envoy 1.40 has it; older ones from 1.38 on accept it and warn.
const ABI_VERSION: &std::ffi::CStr = c"v0.2.0";
const REQUEST_HEADER: u32 = 0;
/// `envoy_dynamic_module_type_http_filter_stream_reset_reason_LocalReset`.
const LOCAL_RESET: u32 = 0;

/// Bytes that Envoy or the module owns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buffer {
    ptr: *const u8,
    len: usize,
}

/// One header; both bytes are owned by Envoy or the module.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    key: Buffer,
    value: Buffer,
}

impl Buffer {
    const NONE: Self = Self { ptr: std::ptr::null(), len: 0 };

    const fn of(bytes: &[u8]) -> Self {
        Self { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// # Safety
    /// Envoy's bytes are valid for `'a`.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() {
            return &[];
        }
        // SAFETY: Envoy's pointer and length belong together; the caller vouches for the lifetime.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

unsafe extern "C" {
    fn envoy_dynamic_module_callback_log(level: u32, message: Buffer);
    fn envoy_dynamic_module_callback_http_get_header(
        filter: *mut c_void,
        kind: u32,
        key: Buffer,
        value: *mut Buffer,
        index: usize,
        count: *mut usize,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_get_headers_size(filter: *mut c_void, kind: u32) -> usize;
    fn envoy_dynamic_module_callback_http_get_headers(filter: *mut c_void, kind: u32, headers: *mut Header) -> bool;
    fn envoy_dynamic_module_callback_http_set_header(
        filter: *mut c_void,
        kind: u32,
        key: Buffer,
        value: Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_send_response(
        filter: *mut c_void,
        status: u32,
        headers: *const Header,
        count: usize,
        body: Buffer,
        details: Buffer,
    );
    fn envoy_dynamic_module_callback_http_filter_continue_decoding(filter: *mut c_void);
    fn envoy_dynamic_module_callback_http_filter_reset_stream(filter: *mut c_void, reason: u32, details: Buffer);
    fn envoy_dynamic_module_callback_http_filter_scheduler_new(filter: *mut c_void) -> *mut c_void;
    fn envoy_dynamic_module_callback_http_filter_scheduler_commit(scheduler: *mut c_void, event: u64);
    fn envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: *mut c_void);
    fn envoy_dynamic_module_callback_get_most_specific_route_config(filter: *mut c_void) -> *const c_void;
    fn envoy_dynamic_module_callback_http_filter_config_define_counter(
        config: *mut c_void,
        name: Buffer,
        labels: *const Buffer,
        count: usize,
        id: *mut usize,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_increment_counter(
        filter: *mut c_void,
        id: usize,
        labels: *const Buffer,
        count: usize,
        value: u64,
    ) -> u32;
}

/// Writes a line to Envoy's log.
pub fn write_log(level: Level, line: &str) {
    let level = match level {
        Level::ERROR => 4,
        Level::WARN => 3,
        Level::INFO => 2,
        _ => 1,
    };
    // SAFETY: Envoy copies the line; its log may be written from any thread.
    unsafe { envoy_dynamic_module_callback_log(level, Buffer::of(line.as_bytes())) }
}

/// The counters of a filter, in Envoy's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Requests that passed with an identity.
    Allowed,
    /// Requests that passed on a public route without an identity.
    Public,
    /// Requests answered with 401 or 403.
    Denied,
    /// Requests answered with 503.
    Unavailable,
    /// Requests whose token was not cached.
    Asked,
    /// Requests that were cut while they were open, because their token had ended.
    Ended,
    /// Caught panics.
    Panics,
}

/// The numbers that Envoy gave the counters.
#[derive(Debug)]
pub struct FilterCounters([Option<usize>; 7]);

impl FilterCounters {
    /// # Safety
    /// `config` is the pointer that Envoy passed to `config_new`, which has not returned yet.
    unsafe fn define(config: *mut c_void) -> Self {
        let names = ["allowed", "public", "denied", "unavailable", "asked", "ended", "panics"];
        Self(names.map(|name| {
            let name = format!("sidegate.{name}");
            let (name, mut id) = (Buffer::of(name.as_bytes()), 0);
            // SAFETY: the caller vouches for `config`; no labels are passed, and `id` outlives the call.
            let result = unsafe {
                envoy_dynamic_module_callback_http_filter_config_define_counter(
                    config,
                    name,
                    std::ptr::null(),
                    0,
                    &raw mut id,
                )
            };
            (result == 0).then_some(id)
        }))
    }
}

/// What Envoy does with a request, or a response, after its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RequestStatus {
    /// Passes it on.
    Continue = 0,
    /// It has been answered.
    Stop = 1,
    /// Keeps it, with as much of its body as fits the buffer, until [`Stream::resume`].
    Wait = 4,
}

/// A request in Envoy, for the time of one hook.
pub struct Stream(*mut c_void);

impl Stream {
    /// All values of a request header.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let mut count = 0;
        let first = self.get(name, 0, &mut count);
        let rest = (1..count).filter_map(move |index| self.get(name, index, &mut 0));
        first.into_iter().chain(rest)
    }

    /// The first value of a request header, or of a pseudo header.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.get(name, 0, &mut 0)
    }

    fn get(&self, name: &str, index: usize, count: &mut usize) -> Option<&[u8]> {
        let (key, mut value) = (Buffer::of(name.as_bytes()), Buffer::NONE);
        // SAFETY: the stream is alive during the hook; the places for the results outlive the call.
        let found = unsafe {
            envoy_dynamic_module_callback_http_get_header(self.0, REQUEST_HEADER, key, &raw mut value, index, count)
        };
        // SAFETY: valid until the hook ends or a header is set, for which the stream is borrowed mutably.
        found.then(|| unsafe { value.bytes() })
    }

    /// The names of all request headers.
    pub fn names(&self) -> Vec<&[u8]> {
        // SAFETY: the stream is alive during the hook.
        let count = unsafe { envoy_dynamic_module_callback_http_get_headers_size(self.0, REQUEST_HEADER) };
        let mut headers = vec![Header { key: Buffer::NONE, value: Buffer::NONE }; count];
        // SAFETY: there is space for as many headers as Envoy said; no other thread changes them.
        let got =
            unsafe { envoy_dynamic_module_callback_http_get_headers(self.0, REQUEST_HEADER, headers.as_mut_ptr()) };
        let headers = if got { headers } else { Vec::new() };
        // SAFETY: valid until the hook ends or a header is set, for which the stream is borrowed mutably.
        headers.into_iter().map(|header| unsafe { header.key.bytes() }).collect()
    }

    /// Sets a request header, in place of all that it had.
    pub fn set(&mut self, name: &str, value: &str) {
        self.put(name.as_bytes(), Buffer::of(value.as_bytes()));
    }

    /// Removes a request header.
    pub fn remove(&mut self, name: &[u8]) {
        self.put(name, Buffer::NONE);
    }

    fn put(&mut self, name: &[u8], value: Buffer) {
        let name = Buffer::of(name);
        // SAFETY: the stream is alive during the hook; Envoy copies name and value.
        unsafe { envoy_dynamic_module_callback_http_set_header(self.0, REQUEST_HEADER, name, value) };
    }

    /// Answers the request. The filter may be destroyed meanwhile.
    pub fn respond(&mut self, answer: &Answer) {
        let header = |(name, value): &(&str, String)| Header {
            key: Buffer::of(name.as_bytes()),
            value: Buffer::of(value.as_bytes()),
        };
        let status = ("grpc-status", answer.grpc_status().to_owned());
        let grpc = self.value("content-type").is_some_and(|value| value.starts_with(b"application/grpc"));
        // Left to itself, Envoy tells a client of gRPC that its call went well.
        let headers: Vec<Header> = answer.headers.iter().chain(grpc.then_some(&status)).map(header).collect();
        let details = format!("sidegate_{}", answer.code);
        let (body, details) = (Buffer::of(&answer.body), Buffer::of(details.as_bytes()));
        let (status, first, count) = (u32::from(answer.status), headers.as_ptr(), headers.len());
        // SAFETY: the stream is alive during the hook; Envoy copies everything.
        unsafe { envoy_dynamic_module_callback_http_send_response(self.0, status, first, count, body, details) }
    }

    /// Passes on a request that waited. The filter may be destroyed meanwhile.
    pub fn resume(&mut self) {
        // SAFETY: the stream is alive during the hook.
        unsafe { envoy_dynamic_module_callback_http_filter_continue_decoding(self.0) }
    }

    /// Cuts a request whose response has begun, with this code in Envoy's access log. The filter may be destroyed meanwhile.
    pub fn reset(&mut self, code: &str) {
        let details = format!("sidegate_{code}");
        let details = Buffer::of(details.as_bytes());
        // SAFETY: the stream is alive during the hook; Envoy copies the details.
        unsafe { envoy_dynamic_module_callback_http_filter_reset_stream(self.0, LOCAL_RESET, details) }
    }

    /// A way to call this request's hook from another thread.
    pub fn scheduler(&self) -> Scheduler {
        // SAFETY: the stream is alive during the hook; the module owns the result.
        Scheduler(unsafe { envoy_dynamic_module_callback_http_filter_scheduler_new(self.0) })
    }

    /// The configuration of the request's route, if it has one.
    pub fn route_config(&self) -> Option<Arc<RouteConfig>> {
        // SAFETY: the stream is alive during the hook.
        let route = unsafe { envoy_dynamic_module_callback_get_most_specific_route_config(self.0) };
        let route: *const RouteConfig = route.cast();
        if route.is_null() {
            return None;
        }
        // SAFETY: made by `Arc::into_raw` in `per_route_config_new`; the stream's route keeps it alive.
        unsafe { Arc::increment_strong_count(route) };
        // SAFETY: the count taken above.
        Some(unsafe { Arc::from_raw(route) })
    }

    /// Adds to a counter.
    pub fn count(&self, counters: &FilterCounters, counter: Counter, value: u64) {
        let Some(id) = counters.0[counter as usize] else { return };
        // SAFETY: the stream is alive during the hook, and of the configuration that defined the counter.
        unsafe {
            envoy_dynamic_module_callback_http_filter_increment_counter(self.0, id, std::ptr::null(), 0, value);
        }
    }
}

/// Calls the hook `scheduled` of a request on its worker. Deleted when dropped.
#[derive(Debug)]
pub struct Scheduler(*mut c_void);

// SAFETY: Envoy's scheduler may be used and deleted on any thread; it is made for that.
unsafe impl Send for Scheduler {}

impl Scheduler {
    /// The request must not have ended.
    pub fn commit(&self) {
        // SAFETY: not deleted before `drop`.
        unsafe { envoy_dynamic_module_callback_http_filter_scheduler_commit(self.0, 0) }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: made by `scheduler_new`, and deleted only here.
        unsafe { envoy_dynamic_module_callback_http_filter_scheduler_delete(self.0) }
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    ABI_VERSION.as_ptr()
}

/// Leaks the result to Envoy, which gives it back to the hook that destroys it; null and a log line for an error.
fn lend<T>(what: &str, made: Result<T, String>) -> *const c_void {
    match made {
        Ok(made) => Arc::into_raw(Arc::new(made)).cast(),
        Err(error) => {
            tracing::error!("{what}: {error}");
            std::ptr::null()
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    envoy: *mut c_void,
    _name: Buffer,
    config: Buffer,
) -> *const c_void {
    crate::abi::log::install();
    let new = || {
        // SAFETY: Envoy's pointer, in the hook that may define counters.
        let counters = unsafe { FilterCounters::define(envoy) };
        // SAFETY: valid during the hook.
        lend("filter_config", FilterConfig::read(unsafe { config.bytes() }, counters))
    };
    guarded(Hook::ConfigNew, new, std::ptr::null)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: *const c_void) {
    let destroy = || {
        // SAFETY: lent by `config_new`, and given back once.
        let config = unsafe { Arc::from_raw(config.cast::<FilterConfig>()) };
        inject(config.panic_in, Hook::ConfigDestroy);
    };
    guarded(Hook::ConfigDestroy, destroy, || ());
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_new(_name: Buffer, config: Buffer) -> *const c_void {
    crate::abi::log::install();
    // SAFETY: valid during the hook.
    let new = || lend("filter_config of a route", RouteConfig::read(unsafe { config.bytes() }));
    guarded(Hook::RouteConfigNew, new, std::ptr::null)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_destroy(config: *const c_void) {
    let destroy = || {
        // SAFETY: lent by `per_route_config_new`, and given back once.
        let config = unsafe { Arc::from_raw(config.cast::<RouteConfig>()) };
        inject(config.panic_in, Hook::RouteConfigDestroy);
    };
    guarded(Hook::RouteConfigDestroy, destroy, || ());
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_new(config: *const c_void, _envoy: *mut c_void) -> *const c_void {
    let new = || {
        let config: *const FilterConfig = config.cast();
        // SAFETY: lent by `config_new`; Envoy keeps it while it makes filters of it.
        unsafe { Arc::increment_strong_count(config) };
        // SAFETY: the count taken above.
        let config = unsafe { Arc::from_raw(config) };
        Rc::into_raw(Rc::new(Filter::new(config))).cast()
    };
    guarded(Hook::FilterNew, new, std::ptr::null)
}

/// The filter of a hook, kept until the hook returns: Envoy may destroy it from within a callback. `None` if `filter_new`
/// panicked.
///
/// # Safety
/// `filter` is what `filter_new` returned, and not destroyed; this is its worker.
unsafe fn filter(filter: *const c_void) -> Option<Rc<Filter>> {
    let filter: *const Filter = filter.cast();
    if filter.is_null() {
        return None;
    }
    // SAFETY: made by `Rc::into_raw` on this worker, and not given back yet.
    unsafe { Rc::increment_strong_count(filter) };
    // SAFETY: the count taken above.
    Some(unsafe { Rc::from_raw(filter) })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    envoy: *mut c_void,
    module: *const c_void,
    _end_of_stream: bool,
) -> u32 {
    let fail = || {
        Stream(envoy).respond(&Answer::internal());
        RequestStatus::Stop
    };
    // SAFETY: Envoy's pointers, on the filter's worker.
    let run = || match unsafe { filter(module) } {
        Some(filter) => filter.request_headers(&mut Stream(envoy)),
        None => fail(),
    };
    guarded(Hook::RequestHeaders, run, fail) as u32
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    envoy: *mut c_void,
    module: *const c_void,
    _end_of_stream: bool,
) -> u32 {
    let run = || {
        // SAFETY: Envoy's pointers, on the filter's worker.
        if let Some(filter) = unsafe { filter(module) } {
            filter.response_headers();
        }
        RequestStatus::Continue
    };
    let fail = || {
        Stream(envoy).respond(&Answer::internal());
        RequestStatus::Stop
    };
    guarded(Hook::ResponseHeaders, run, fail) as u32
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(envoy: *mut c_void, module: *const c_void, _event: u64) {
    let run = || {
        // SAFETY: Envoy's pointers, on the filter's worker.
        if let Some(filter) = unsafe { filter(module) } {
            filter.scheduled(&mut Stream(envoy));
        }
    };
    guarded(Hook::Scheduled, run, || Stream(envoy).respond(&Answer::internal()));
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_destroy(module: *const c_void) {
    let run = || {
        if module.is_null() {
            return;
        }
        // SAFETY: made by `filter_new`, and given back once.
        let filter = unsafe { Rc::from_raw(module.cast::<Filter>()) };
        filter.destroyed();
    };
    guarded(Hook::FilterDestroy, run, || ());
}

/// The hooks in which the module does nothing: 0 is "continue". None of them reads its arguments.
macro_rules! idle_hooks {
    ($($name:ident),* $(,)?) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> u32 {
                0
            }
        )*
    };
}

idle_hooks!(
    envoy_dynamic_module_on_http_filter_request_body,
    envoy_dynamic_module_on_http_filter_request_trailers,
    envoy_dynamic_module_on_http_filter_response_body,
    envoy_dynamic_module_on_http_filter_response_trailers,
    envoy_dynamic_module_on_http_filter_stream_complete,
    envoy_dynamic_module_on_http_filter_http_callout_done,
    envoy_dynamic_module_on_http_filter_http_stream_headers,
    envoy_dynamic_module_on_http_filter_http_stream_data,
    envoy_dynamic_module_on_http_filter_http_stream_trailers,
    envoy_dynamic_module_on_http_filter_http_stream_complete,
    envoy_dynamic_module_on_http_filter_http_stream_reset,
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark,
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark,
    envoy_dynamic_module_on_http_filter_local_reply,
    envoy_dynamic_module_on_http_filter_config_scheduled,
    envoy_dynamic_module_on_http_filter_config_http_callout_done,
    envoy_dynamic_module_on_http_filter_config_http_stream_headers,
    envoy_dynamic_module_on_http_filter_config_http_stream_data,
    envoy_dynamic_module_on_http_filter_config_http_stream_trailers,
    envoy_dynamic_module_on_http_filter_config_http_stream_complete,
    envoy_dynamic_module_on_http_filter_config_http_stream_reset,
);
