//! The Rust client beside a real daemon.

use std::time::Duration;

use sidegate_client::Sidegate;

use crate::stack::Verifier;

/// A client of this daemon. Blocks while it attaches.
pub fn connect(verifier: &Verifier) -> Sidegate {
    Sidegate::builder().socket(&verifier.settings["VERIFIER_SOCKET"]).attach_socket(&verifier.attach).connect()
}

/// Checks a valid token until the segment answers for it: a daemon that has just started may not
/// have promised anything yet.
///
/// # Panics
/// The token is refused, or never answered from the segment.
pub fn until_kept(sidegate: &Sidegate, token: &str) {
    for _ in 0..2000 {
        assert_eq!(sidegate.check(token).map(|_| ()), Ok(()));
        if sidegate.try_cached(token).is_some() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never answered in process");
}
