//! Follows the log of an issuer with the embedded store over its gRPC stream (docs/protocol.md,
//! "gRPC").

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sidegate_common::log_protocol::{Message, Position, is_epoch};
use sidegate_common::revocation::Revocation;
use sidegate_common::secret::Secret;
use sidegate_common::sync::{Entry, Event, Head, Lineage, ProbeAnswer, ReadFrom, Role};
use sidegate_common::time::UnixTime;
use sidegate_proto::feed::{self as wire, follow_request::Ask, follow_response::Item};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};

use super::{FeedError, Link, Source};
use crate::clock;

/// The only partition of an embedded store.
const PARTITION: u16 = 0;
/// Entries in one page.
const PAGE_ENTRIES: u32 = 1000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The window for a page and the pushes after it, in bytes.
const WINDOW_BYTES: u32 = 1 << 20;

/// Why an address is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a URL.
    #[error("not a URL such as http://127.0.0.1:8082")]
    Url,
    /// The token has characters that are not allowed in a header.
    #[error("the feed token has characters other than visible ASCII")]
    Token,
}

/// An issuer's log over gRPC. Clones share the address, so that the follower gets a new token.
#[derive(Clone, Debug)]
pub struct GrpcSource {
    address: Arc<RwLock<Address>>,
}

#[derive(Clone, Debug)]
struct Address {
    endpoint: Endpoint,
    authorization: Option<MetadataValue<Ascii>>,
}

impl GrpcSource {
    /// The feed at `url`, with the token that it requires.
    ///
    /// # Errors
    /// The URL is malformed, or the token is not allowed in a header.
    pub fn new(url: &str, token: Option<&Secret>) -> Result<Self, AddressError> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| AddressError::Url)?;
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(AddressError::Url);
        }
        let authorization = token.map(|token| {
            let text = token.expose_str().ok_or(AddressError::Token)?;
            let mut value = MetadataValue::try_from(format!("Bearer {text}")).map_err(|_| AddressError::Token)?;
            value.set_sensitive(true);
            Ok(value)
        });
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let address = Address { endpoint, authorization: authorization.transpose()? };
        Ok(Self { address: Arc::new(RwLock::new(address)) })
    }

    /// Replaces address and token by another source's; the next connection uses them.
    pub fn renew(&self, with: &Self) {
        let address = with.address();
        *self.address.write().unwrap_or_else(PoisonError::into_inner) = address;
    }

    fn address(&self) -> Address {
        self.address.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn open(&self) -> Result<GrpcLink, FeedError> {
        let unreachable = |error: tonic::transport::Error| FeedError::Unreachable(chain(&error));
        // Names are resolved here, again for each connection.
        let Address { endpoint, authorization } = self.address();
        let channel = endpoint.connect().await.map_err(unreachable)?;
        let (asks, requests) = mpsc::unbounded_channel();
        let mut request = Request::new(UnboundedReceiverStream::new(requests));
        if let Some(authorization) = authorization {
            request.metadata_mut().insert("authorization", authorization);
        }
        // The issuer answers once it follows its log for this stream: from here on nothing is
        // missed.
        let mut client = wire::revocation_feed_client::RevocationFeedClient::new(channel);
        let answers = client.follow(request).await.map_err(|status| feed_error(&status))?.into_inner();
        Ok(GrpcLink { asks, answers, reads: VecDeque::new() })
    }
}

impl Source for GrpcSource {
    type Link = GrpcLink;

    async fn partitions(&self) -> Result<u16, FeedError> {
        let mut link = self.open().await?;
        link.probe(PARTITION, 0);
        loop {
            match link.next().await? {
                (_, Event::Answered { answer: ProbeAnswer::Head(head), .. }) => return Ok(head.partitions),
                (_, Event::Answered { .. }) => return Err(FeedError::NoEpoch),
                _ => {}
            }
        }
    }

    fn groups(&self, _partitions: u16) -> Vec<Vec<u16>> {
        vec![vec![PARTITION]]
    }

    async fn connect(&self, _partitions: &[u16]) -> Result<GrpcLink, FeedError> {
        self.open().await
    }
}

/// An open stream.
pub struct GrpcLink {
    asks: mpsc::UnboundedSender<wire::FollowRequest>,
    answers: Streaming<wire::FollowResponse>,
    /// The unanswered reads, oldest first.
    reads: VecDeque<u64>,
}

impl GrpcLink {
    fn ask(&self, ask: Ask) {
        // If the stream has ended, `next` returns the error.
        let _ended = self.asks.send(wire::FollowRequest { ask: Some(ask) });
    }
}

impl Link for GrpcLink {
    fn probe(&mut self, _partition: u16, token: u64) {
        self.ask(Ask::Probe(wire::Probe { token }));
    }

    fn read(&mut self, _partition: u16, request: u64, from: ReadFrom) {
        let after = match from {
            ReadFrom::Start => String::new(),
            ReadFrom::At(position) => before(position).to_string(),
            ReadFrom::After(position) => position.to_string(),
        };
        self.reads.push_back(request);
        self.ask(Ask::Read(wire::Read { after, limit: PAGE_ENTRIES }));
    }

    async fn next(&mut self) -> Result<(u16, Event), FeedError> {
        let answer = self.answers.message().await.map_err(|status| feed_error(&status))?;
        let answer = answer.ok_or_else(|| FeedError::Closed("the issuer ended the stream".to_owned()))?;
        let event = match answer.item {
            Some(Item::Head(head)) => Event::Answered { token: head.token, answer: answer_of(head)? },
            Some(Item::Pushed(pushed)) => pushed_of(pushed).map_or(Event::Garbled, Event::Pushed),
            Some(Item::Page(page)) => {
                let request = self.reads.pop_front().ok_or_else(malformed)?;
                let entries = page.entries.into_iter().map(entry_of).collect::<Option<_>>().ok_or_else(malformed)?;
                Event::Page { request, entries, complete: page.complete }
            }
            None => Event::Garbled,
        };
        Ok((PARTITION, event))
    }
}

/// The greatest position before `position` that a store can have.
fn before(position: Position) -> Position {
    const SEQUENCE_MAX: u64 = i64::MAX as u64;
    match (position.ms, position.sequence) {
        (ms, sequence @ 1..) => Position { ms, sequence: sequence - 1 },
        (ms @ 1.., 0) => Position { ms: ms - 1, sequence: SEQUENCE_MAX },
        (0, 0) => Position::START,
    }
}

fn answer_of(head: wire::Head) -> Result<ProbeAnswer, FeedError> {
    if head.epoch.is_empty() {
        return Ok(ProbeAnswer::NoEpoch);
    }
    if !is_epoch(&head.epoch) {
        return Err(malformed());
    }
    Ok(ProbeAnswer::Head(Head {
        // One file, written by one process that makes every entry durable before it pushes it: the
        // replication id never changes.
        lineage: Lineage { epoch: head.epoch.into(), replication_id: "embedded".into() },
        last: Position::parse(&head.last).ok_or_else(malformed)?,
        empty: head.first.is_empty(),
        since: UnixTime(head.since),
        // An issuer of the previous version does not send its clock.
        now: if head.now == 0 { clock::unix_now() } else { UnixTime(head.now) },
        partitions: u16::try_from(head.partitions).map_err(|_| malformed())?,
        role: Role::ALONE,
        settled: true,
    }))
}

fn pushed_of(pushed: wire::Pushed) -> Option<Message> {
    let previous = Position::parse(&pushed.previous)?;
    let position = Position::parse(&pushed.position)?;
    let revocation = Revocation::from_bytes(&pushed.entry);
    let epoch = pushed.epoch.into_boxed_str();
    (is_epoch(&epoch) && previous < position).then_some(Message { epoch, previous, position, revocation })
}

fn entry_of(entry: wire::LogEntry) -> Option<Entry> {
    let position = Position::parse(&entry.position)?;
    Some(Entry { position, revocation: Revocation::from_bytes(&entry.entry) })
}

fn malformed() -> FeedError {
    FeedError::Closed("malformed answer from the issuer".to_owned())
}

fn feed_error(status: &Status) -> FeedError {
    let message = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::InvalidArgument => {
            FeedError::Refused(message)
        }
        Code::Unavailable => FeedError::Unreachable(message),
        _ => FeedError::Closed(message),
    }
}

/// An error with its causes: tonic's text for every failed connect is "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_is_the_greatest_smaller_position() {
        let p = |ms, sequence| Position { ms, sequence };
        assert_eq!(before(p(5, 3)), p(5, 2));
        assert_eq!(before(p(5, 0)), p(4, i64::MAX as u64));
        assert_eq!(before(Position::START), Position::START);
    }

    #[test]
    fn addresses() {
        assert!(GrpcSource::new("http://127.0.0.1:8082", Some(&Secret::new("token"))).is_ok());
        assert_eq!(GrpcSource::new("not a url", None).err(), Some(AddressError::Url));
        assert_eq!(GrpcSource::new("ftp://a", None).err(), Some(AddressError::Url));
        assert_eq!(GrpcSource::new("http://a", Some(&Secret::new("a\nb"))).err(), Some(AddressError::Token));
        let shown = format!("{:?}", GrpcSource::new("http://a", Some(&Secret::new("canary"))).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn malformed_answers_are_errors() {
        let head = wire::Head { epoch: "e".into(), last: "1-0".into(), partitions: 1, ..wire::Head::default() };
        assert!(matches!(answer_of(head.clone()), Ok(ProbeAnswer::Head(head)) if head.empty));
        assert_eq!(answer_of(wire::Head::default()), Ok(ProbeAnswer::NoEpoch));
        assert!(answer_of(wire::Head { last: "x".into(), ..head.clone() }).is_err());
        assert!(answer_of(wire::Head { partitions: 70_000, ..head }).is_err());
        let pushed = wire::Pushed { epoch: "e".into(), previous: "2-0".into(), position: "1-0".into(), entry: vec![] };
        assert_eq!(pushed_of(pushed), None, "it cannot come after what is behind it");
    }
}
