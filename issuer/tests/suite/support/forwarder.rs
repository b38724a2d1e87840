//! A TCP forwarder whose target can be switched, as in a failover.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Forwards connections to the current target port.
pub struct Forwarder {
    port: u16,
    to: Arc<AtomicU16>,
    cut: watch::Sender<u64>,
}

impl Forwarder {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap().port();
        let (to, (cut, cuts)) = (Arc::new(AtomicU16::new(port)), watch::channel(0));
        let target = Arc::clone(&to);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                let port = target.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    tokio::select! {
                        () = join(client, port) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { port: here, to, cut }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Cuts every connection; new ones go to `port`.
    pub fn switch(&self, port: u16) {
        self.to.store(port, Ordering::SeqCst);
        self.cut.send_modify(|count| *count += 1);
    }
}

async fn join(mut client: TcpStream, port: u16) {
    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
        let _cut = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
