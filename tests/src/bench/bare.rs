//! The peer of `/check`: a hyper server on a Unix socket that answers 200 with an empty body and does nothing else.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

use crate::program::Program;

/// Serves until killed. Runs in a process of its own: see [`start`].
pub fn serve(socket: &Path, workers: usize) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(workers).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(socket).expect("the socket is free");
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                let answer = service_fn(|_| async { Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new())) });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _client_gone = builder.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
}

/// Starts the bare server as a child of the benchmark and waits for its socket.
pub async fn start(folder: &crate::scratch::Scratch, workers: usize) -> (Program, PathBuf) {
    let socket = folder.file("bare.sock");
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    command.arg("--bare-server").arg(&socket).arg(workers.to_string());
    let program = Program::start("bare hyper", command, &folder.file("bare.log"));
    crate::wait::eventually("the bare server", || async { tokio::net::UnixStream::connect(&socket).await.ok() }).await;
    (program, socket)
}
