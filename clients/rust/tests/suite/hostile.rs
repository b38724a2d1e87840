//! The client with a hostile attach socket and with invalid segments: it falls back to the socket
//! for checks.

use std::sync::Arc;

use crate::fake_daemon::{Daemon, Scratch, claims, eventually};
use crate::lies::{Case, messages, noisy, segments, serve};
use sidegate_client::{Denied, Sidegate};
use sidegate_shm::Attachment;

/// A client that met the lie works over the socket, and names what was wrong.
fn meets((lie, expected): Case) {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.0);
    let (attach, lie) = (scratch.0.join("hostile.sock"), Arc::new(lie));
    serve(&attach, Arc::clone(&lie));
    let sidegate: Sidegate = scratch.builder().attach_socket(&attach).connect();
    let (good, bad) = (claims(1), claims(2));
    daemon.revoke_session(&bad);
    for _ in 0..3 {
        assert_eq!(sidegate.check(&good.token()).unwrap().subject(), good.sub);
        assert_eq!(sidegate.check(&bad.token()), Err(Denied::Revoked));
    }
    assert_eq!((sidegate.segment(), daemon.asked()), (None, 6), "every check was asked over the socket");
    let again = scratch.0.join("again.sock");
    serve(&again, lie);
    let error = Attachment::connect(&again, std::time::Duration::from_secs(20)).map(drop).expect_err("a lie");
    assert!(expected(&error), "{error:?}");
}

#[test]
fn hostile_attach_socket_falls_back_to_the_check_socket() {
    messages().into_iter().for_each(meets);
}

#[test]
fn invalid_segment_falls_back_to_the_check_socket() {
    segments().into_iter().for_each(meets);
}

/// A valid header with random data after it: the daemon alone decides about tokens.
#[test]
fn random_data_in_a_segment_accepts_no_token() {
    for (lie, id) in noisy() {
        let scratch = Scratch::new();
        let daemon = Daemon::start(&scratch.0);
        let attach = scratch.0.join("hostile.sock");
        serve(&attach, Arc::new(lie));
        let sidegate = scratch.builder().attach_socket(&attach).connect();
        eventually("attached: it looks like one", || sidegate.segment() == Some(id));
        let mine = claims(1);
        assert_eq!(sidegate.check(&mine.token()).unwrap().subject(), mine.sub);
        daemon.revoke_session(&mine);
        assert_eq!(sidegate.check(&mine.token()), Err(Denied::Revoked));
    }
}
