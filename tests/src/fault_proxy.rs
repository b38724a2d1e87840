//! A TCP proxy that can cut connections, redirect them, refuse them, or silently stop forwarding.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A proxy on its own port. Its connections end when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    state: watch::Sender<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    to: u16,
    carries: bool,
    plugged: bool,
    /// Connections of an older generation are cut.
    generation: u64,
}

impl FaultProxy {
    /// A fault proxy to a port of 127.0.0.1.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let ours = listener.local_addr().expect("a bound address").port();
        let (state, watched) = watch::channel(State { to: port, carries: true, plugged: true, generation: 0 });
        let task = tokio::spawn(accept(listener, watched));
        Self { port: ours, state, task }
    }

    /// The port for clients.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection; new ones go to `port`.
    pub fn lead_to(&self, port: u16) {
        self.change(|state| (state.to, state.generation) = (port, state.generation + 1));
    }

    /// Cuts every connection; new ones are accepted as before.
    pub fn cut(&self) {
        self.change(|state| state.generation += 1);
    }

    /// Cuts every connection, and every new one at once.
    pub fn pull(&self) {
        self.change(|state| (state.plugged, state.generation) = (false, state.generation + 1));
    }

    /// A black hole: nothing is forwarded in either direction, and no connection is closed.
    /// [`FaultProxy::carry`] forwards the pending bytes, as TCP would.
    pub fn swallow(&self) {
        self.change(|state| state.carries = false);
    }

    /// Resumes normal forwarding.
    pub fn carry(&self) {
        self.change(|state| (state.carries, state.plugged) = (true, true));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: watch::Receiver<State>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(connection(client, state.clone()));
    }
}

async fn connection(client: TcpStream, mut state: watch::Receiver<State>) {
    let born = *state.borrow_and_update();
    if !born.plugged {
        return;
    }
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, born.to)).await else { return };
    let _either_way = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pump(from_client, to_server, state.clone()) => {}
        () = pump(from_server, to_client, state.clone()) => {}
        // Also ends when the fault proxy is dropped.
        _ = state.wait_for(|state| state.generation != born.generation) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        if state.wait_for(|state| state.carries).await.is_err() {
            return;
        }
        let Ok(length @ 1..) = from.read(&mut chunk).await else { return };
        if state.wait_for(|state| state.carries).await.is_err() || to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}
