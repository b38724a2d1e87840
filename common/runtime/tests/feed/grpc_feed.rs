//! The gRPC feed: the conformance suite, over a feed server with its log in memory.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use sidegate_common::log_protocol::Position;
use sidegate_common::secret::Secret;
use sidegate_proto::feed::follow_request::Ask;
use sidegate_proto::feed::follow_response::Item;
use sidegate_proto::feed::revocation_feed_server::{RevocationFeed, RevocationFeedServer};
use sidegate_proto::feed::{FollowRequest, FollowResponse, Head, LogEntry, Page, Pushed};
use sidegate_runtime::feed::grpc::GrpcSource;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::follower::{Follower, entry};
use super::suite::Rig;

const TOKEN: &str = "the-feed-token";

type Sender = mpsc::UnboundedSender<Result<FollowResponse, Status>>;

#[derive(Default)]
struct Log {
    epoch: String,
    last: Position,
    entries: Vec<(Position, Vec<u8>)>,
    followers: Vec<Sender>,
}

impl Log {
    fn append(&mut self, entry: &[u8], pushed: bool) {
        let previous = self.last;
        self.last = Position { ms: previous.ms + 1, sequence: 0 };
        self.entries.push((self.last, entry.to_vec()));
        if pushed {
            let (previous, position) = (previous.to_string(), self.last.to_string());
            let pushed = Pushed { epoch: self.epoch.clone(), previous, position, entry: entry.to_vec() };
            self.send_all(Item::Pushed(pushed));
        }
    }

    fn send_all(&mut self, item: Item) {
        self.followers.retain(|follower| follower.send(Ok(FollowResponse { item: Some(item.clone()) })).is_ok());
    }

    fn head(&self, token: u64) -> Head {
        Head {
            token,
            partition: 0,
            partitions: 1,
            epoch: self.epoch.clone(),
            last: self.last.to_string(),
            since: 1_000,
            now: 0,
            first: self.entries.first().map(|(position, _)| position.to_string()).unwrap_or_default(),
        }
    }

    fn page(&self, after: Option<Position>, limit: usize) -> Page {
        let from = self.entries.partition_point(|(position, _)| after.is_some_and(|after| *position <= after));
        let rest = &self.entries[from..];
        let page = rest.iter().take(limit);
        let entries = page.map(|(position, entry)| LogEntry { position: position.to_string(), entry: entry.clone() });
        Page { entries: entries.collect(), complete: rest.len() <= limit }
    }
}

#[derive(Clone, Default)]
struct Server {
    log: Arc<Mutex<Log>>,
}

#[tonic::async_trait]
impl RevocationFeed for Server {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

    async fn follow(&self, request: Request<Streaming<FollowRequest>>) -> Result<Response<Self::FollowStream>, Status> {
        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if bearer != Some(&format!("Bearer {TOKEN}")) {
            return Err(Status::unauthenticated("the feed asks for its token"));
        }
        let (sender, answers) = mpsc::unbounded_channel();
        self.log.lock().unwrap().followers.push(sender.clone());
        let (log, mut asks) = (Arc::clone(&self.log), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(request)) = asks.next().await {
                // Under the lock: an answer follows every push of the entries that it has seen.
                let log = log.lock().unwrap();
                let item = match request.ask {
                    Some(Ask::Probe(probe)) => Item::Head(log.head(probe.token)),
                    Some(Ask::Read(read)) => Item::Page(log.page(Position::parse(&read.after), read.limit as usize)),
                    None => continue,
                };
                let known = log.followers.iter().any(|follower| follower.same_channel(&sender));
                if !known || sender.send(Ok(FollowResponse { item: Some(item) })).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }
}

pub struct GrpcRig {
    log: Arc<Mutex<Log>>,
    address: SocketAddr,
}

impl GrpcRig {
    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    fn source_with(&self, token: Option<&str>) -> GrpcSource {
        GrpcSource::new(&format!("http://{}", self.address), token.map(Secret::new).as_ref()).unwrap()
    }
}

impl Rig for GrpcRig {
    type Source = GrpcSource;

    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::default();
        let log = Arc::clone(&server.log);
        let router = tonic::transport::Server::builder().add_service(RevocationFeedServer::new(server));
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { log, address }
    }

    fn source(&self) -> GrpcSource {
        self.source_with(Some(TOKEN))
    }

    async fn create(&self, epoch: &str) {
        self.log().epoch = epoch.to_owned();
    }

    async fn append(&self, entry: &[u8]) {
        self.log().append(entry, true);
    }

    async fn append_without_push(&self, entries: &[Vec<u8>]) {
        let mut log = self.log();
        entries.iter().for_each(|entry| log.append(entry, false));
    }

    async fn push_garbage(&self) {
        let odd = Pushed { epoch: "no epoch!".into(), previous: "x".into(), position: "1-0".into(), entry: vec![] };
        self.log().send_all(Item::Pushed(odd));
    }

    async fn cut(&self) {
        let followers = std::mem::take(&mut self.log().followers);
        for follower in followers {
            let _gone = follower.send(Err(Status::aborted("cut")));
        }
    }

    async fn lose(&self) {
        let mut log = self.log();
        let followers = std::mem::take(&mut log.followers);
        *log = Log { followers, ..Log::default() };
    }

    async fn trim(&self, count: usize) {
        self.log().entries.drain(..count);
    }
}

mod conformance {
    crate::conformance!(super::GrpcRig);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feed_token_is_sent_and_its_rejection_reported() {
    let rig = GrpcRig::start().await;
    rig.create("first").await;
    let without = Follower::start(rig.source_with(None));
    let refused =
        |follower: &Follower| follower.status.last_error().is_some_and(|why| why.contains("asks for its token"));
    without.until("reported why", refused).await;
    assert_eq!(without.proofs(), 0);
    without.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_of_expired_entries_is_complete() {
    let rig = GrpcRig::start().await;
    rig.create("first").await;
    rig.append(&entry("expired")).await;
    rig.trim(1).await;
    let follower = Follower::start(rig.source());
    follower.proven_anew().await;
    follower.stop().await;
}
