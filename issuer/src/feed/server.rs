//! Serves the embedded store's log to verifiers: one gRPC stream each, strictly in order (feed.proto).

use std::pin::Pin;
use std::sync::Arc;

use sidegate_common::log_protocol::Position;
use sidegate_common::secret::LiveSecret;
use sidegate_proto::feed as wire;
use sidegate_proto::feed::follow_request::Ask;
use sidegate_proto::feed::follow_response::Item;
use sidegate_proto::feed::revocation_feed_server::{RevocationFeed, RevocationFeedServer};
use sidegate_runtime::clock::unix_now;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::store::sqlite::feed::{Feed, Pushed};
use crate::store::sqlite::log::{EmbeddedHead, LogEntry};

/// How many responses may be queued for a slow follower before the stream waits.
const ANSWERS_MAX: usize = 16;

/// The feed's service.
#[derive(Clone)]
pub struct FeedService {
    feed: Arc<Feed>,
    token: LiveSecret,
    stop: watch::Receiver<bool>,
}

impl FeedService {
    /// A service over `feed`; followers must present `token`, if one is set. Streams end when
    /// `stop` becomes true.
    pub fn server(feed: Arc<Feed>, token: LiveSecret, stop: watch::Receiver<bool>) -> RevocationFeedServer<Self> {
        RevocationFeedServer::new(Self { feed, token, stop })
    }

    fn authorise<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if !self.token.is_set() {
            return Ok(());
        }
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let bearer = shown.and_then(|value| value.strip_prefix("Bearer "));
        if bearer.is_some_and(|shown| self.token.matches(shown.as_bytes())) {
            Ok(())
        } else {
            Err(Status::unauthenticated("FEED_TOKEN is missing or wrong"))
        }
    }
}

type Answers = mpsc::Sender<Result<wire::FollowResponse, Status>>;

#[tonic::async_trait]
impl RevocationFeed for FeedService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<wire::FollowResponse, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<wire::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        self.authorise(&request)?;
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let follower = Follower { feed: Arc::clone(&self.feed), pushes: self.feed.follow(), answers };
        tokio::spawn(follower.serve(request.into_inner(), self.stop.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// One stream. It subscribes before it reads the first request, so that no entry is missed.
struct Follower {
    feed: Arc<Feed>,
    pushes: broadcast::Receiver<Pushed>,
    answers: Answers,
}

/// The stream has ended.
struct Over;

impl Follower {
    async fn serve(mut self, mut questions: Streaming<wire::FollowRequest>, mut stop: watch::Receiver<bool>) {
        loop {
            let done = tokio::select! {
                pushed = self.pushes.recv() => match pushed {
                    Ok(pushed) => self.send(push(pushed)).await,
                    Err(_) => self.fail(Status::data_loss("this follower is too far behind the log")).await,
                },
                question = questions.next() => match question {
                    Some(Ok(question)) => self.answer(question).await,
                    Some(Err(_)) | None => Err(Over),
                },
                () = sidegate_runtime::program::stopped(&mut stop) => {
                    self.fail(Status::unavailable("stopping")).await
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn answer(&mut self, question: wire::FollowRequest) -> Result<(), Over> {
        match question.ask {
            Some(Ask::Probe(probe)) => {
                let head = self.feed.head();
                // Every entry up to the head was pushed before the head was read: those pushes go
                // out first.
                self.drain().await?;
                self.send(Item::Head(describe(probe.token, head))).await
            }
            Some(Ask::Read(read)) => {
                let after = if read.after.is_empty() { Some(Position::START) } else { Position::parse(&read.after) };
                let Some(after) = after else {
                    return self.fail(Status::invalid_argument("not a position")).await;
                };
                match self.feed.page(after, read.limit).await {
                    Ok((entries, complete)) => {
                        let entries = entries.into_iter().map(entry).collect();
                        self.send(Item::Page(wire::Page { entries, complete })).await
                    }
                    Err(error) => self.fail(Status::unavailable(error.to_string())).await,
                }
            }
            // A request of a later protocol version gets no response; the follower's timeout
            // handles that.
            None => Ok(()),
        }
    }

    /// Sends the pushes that are queued now; later ones can wait.
    async fn drain(&mut self) -> Result<(), Over> {
        for _ in 0..self.pushes.len() {
            match self.pushes.try_recv() {
                Ok(pushed) => self.send(push(pushed)).await?,
                Err(_) => return self.fail(Status::data_loss("this follower is too far behind the log")).await,
            }
        }
        Ok(())
    }

    async fn send(&self, item: Item) -> Result<(), Over> {
        self.answers.send(Ok(wire::FollowResponse { item: Some(item) })).await.map_err(|_| Over)
    }

    async fn fail(&self, status: Status) -> Result<(), Over> {
        // The follower may already have disconnected.
        let _gone = self.answers.send(Err(status)).await;
        Err(Over)
    }
}

fn push(pushed: Pushed) -> Item {
    Item::Pushed(wire::Pushed {
        epoch: pushed.epoch,
        previous: pushed.previous.to_string(),
        position: pushed.entry.position.to_string(),
        entry: pushed.entry.entry,
    })
}

fn entry(entry: LogEntry) -> wire::LogEntry {
    wire::LogEntry { position: entry.position.to_string(), entry: entry.entry }
}

fn describe(token: u64, head: EmbeddedHead) -> wire::Head {
    wire::Head {
        token,
        partition: 0,
        partitions: 1,
        epoch: head.epoch,
        last: head.last.to_string(),
        since: head.since.0,
        first: head.first.map(|first| first.to_string()).unwrap_or_default(),
        now: unix_now().0,
    }
}
