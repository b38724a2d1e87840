//! The reader's end: from a token's prepared probe to "good" or "ask the daemon", with loads only.

use crate::clock::{NANOS, Now, SegmentClock};
use crate::hash::{Probe, TokenFacts, Want};
use crate::layout::{CHANGES, Header, LIVE, LayoutError};
use crate::live::{self, IAT_FLOOR, KEY_EPOCH, Live, STATE, SUCCESSOR, SegmentState, TIME_FLOOR, UNBOUND};
use crate::live::{VALID_MONOTONIC, VALID_REALTIME};
use crate::table::{self, Found};
use crate::words::{Load, Words};

/// A readable segment: `W` is the mapping, or words on the heap in tests.
#[derive(Debug)]
pub struct Reader<W = Words> {
    words: W,
    header: Header,
}

/// The segment's verdict on a token that the daemon has called good before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentLookup {
    /// Not revoked, not expired, and the list is as fresh as the policy requires.
    Clear,
    /// The daemon must be asked.
    Ask(AskReason),
}

/// Why the daemon must be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskReason {
    /// The probe is for another segment.
    OtherSegment,
    /// The segment is being filled, or was closed.
    NotLive,
    /// The segment's validity has ended by one of the clocks.
    Lapsed,
    /// A key was retired or a policy changed since the daemon checked the token.
    OtherEpoch,
    /// The token's `exp` has passed.
    Expired,
    /// The token is older than a watermark for all users.
    Watermark,
    /// A tag of the token, its session or its subject is in the table.
    Revoked,
    /// The token's line is full, so some of its entries are not stored.
    Saturated,
}

impl<W: Load> Reader<W> {
    /// Validates the header and keeps a private copy of it.
    ///
    /// # Errors
    /// The first fault in the header.
    pub fn new(words: W) -> Result<Self, LayoutError> {
        let header = Header::read(&words)?;
        Ok(Self { words, header })
    }

    /// The segment's identifier; never zero.
    pub fn id(&self) -> u64 {
        self.header.id
    }

    /// The size of the segment in bytes.
    pub fn bytes(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    /// Computes a token's location. The result is for this segment only.
    pub fn probe(&self, facts: &TokenFacts<'_>) -> Probe {
        self.header.probe(facts)
    }

    /// Prefetches the line of a token with this [`Probe::home`], which will be checked soon.
    #[inline]
    pub fn fetch(&self, home: u32) {
        self.words.fetch(self.header.table.word(home as usize));
    }

    /// Whether a token that the daemon accepted under `key_epoch` is still good.
    ///
    /// The order of the loads is the protocol (docs/shm.md): first the promise, then the tables,
    /// then the line again, with a fence between each, and the clocks last. So the promise held
    /// when the tables were read (they lacked no older entry), and if an entry was removed
    /// meanwhile, the second read of the line shows it.
    #[inline]
    pub fn check(&self, probe: &Probe, key_epoch: u64, clock: &impl SegmentClock) -> SegmentLookup {
        if probe.segment != self.header.id {
            return SegmentLookup::Ask(AskReason::OtherSegment);
        }
        let promise = self.words.line(LIVE);
        // SYNC POINT: pairs with the publishing of `valid_until`: every entry that the promise rests on is visible below.
        self.words.acquire();
        // Not the value from the line above: loom found a new promise there beside an older count.
        if let Some(reason) = self.look_up(probe, self.words.load(UNBOUND)) {
            return SegmentLookup::Ask(reason);
        }
        // SYNC POINT: pairs with the zero that expires a tag: the time floor that allowed it is visible below.
        self.words.acquire();
        let line = self.words.line(LIVE);
        decide(&promise, &line, probe, key_epoch, clock.now())
    }

    #[inline]
    fn look_up(&self, probe: &Probe, unbound: u64) -> Option<AskReason> {
        let want = Want { token: probe.token, session: probe.session, subject: probe.subject, iat_s: probe.iat_s };
        let found = table::look_up(&self.words, self.header.table, probe.home as usize, &want);
        if unbound == 0 || found != Found::Nothing {
            return found.reason();
        }
        self.look_up_unbound(probe)
    }

    #[cold]
    #[inline(never)]
    fn look_up_unbound(&self, probe: &Probe) -> Option<AskReason> {
        let find = |home: u64, word| {
            table::look_up(&self.words, self.header.unbound, home as usize, &Want::word(word)).reason()
        };
        find(probe.unbound_token, probe.token).or_else(|| find(probe.unbound_session, probe.session))
    }

    /// A number that rises with every store that can make a token's check ask; `None` if the daemon is too old to count.
    ///
    /// A token that a later [`Reader::check`] calls clear stays so while this number, the live line and its `exp` allow it: for
    /// open streams, whose tokens need not be looked up again and again.
    pub fn changes(&self) -> Option<u64> {
        let changes = self.words.load(CHANGES);
        // SYNC POINT: pairs with `raise_changes`: every store that the number counts is visible below.
        self.words.acquire();
        Some(changes).filter(|changes| *changes != 0)
    }

    /// True if the segment is valid by both clocks.
    pub fn is_valid(&self, clock: &impl SegmentClock) -> bool {
        let (live, now) = (self.live(), clock.now());
        live.state == SegmentState::Live
            && now.monotonic_ns < live.valid_until_monotonic_ns
            && now.realtime_ns < live.valid_until_realtime_ns
    }

    /// True if the daemon has made another segment, or this one is no longer valid.
    pub fn wants_replacing(&self, clock: &impl SegmentClock) -> bool {
        self.words.load(SUCCESSOR) != 0 || !self.is_valid(clock)
    }

    /// The live line, for people.
    pub fn live(&self) -> Live {
        live::read(&self.words)
    }

    /// The successor of this segment, if there is one.
    pub fn successor(&self) -> Option<u64> {
        Some(self.words.load(SUCCESSOR)).filter(|id| *id != 0)
    }
}

impl Found {
    #[inline]
    fn reason(self) -> Option<AskReason> {
        match self {
            Self::Nothing => None,
            Self::Tag => Some(AskReason::Revoked),
            Self::Saturated => Some(AskReason::Saturated),
        }
    }
}

/// Decides by both reads of the live line: the promise must have held before the tables were read
/// *and* hold now.
#[inline]
fn decide(promise: &[u64; 8], line: &[u64; 8], probe: &Probe, key_epoch: u64, now: Now) -> SegmentLookup {
    let earlier = |word: usize| promise[word - LIVE];
    let later = |word: usize| line[word - LIVE];
    let reason = if earlier(STATE) != SegmentState::LIVE || later(STATE) != SegmentState::LIVE {
        AskReason::NotLive
    } else if now.monotonic_ns >= earlier(VALID_MONOTONIC).min(later(VALID_MONOTONIC))
        || now.realtime_ns >= earlier(VALID_REALTIME).min(later(VALID_REALTIME))
    {
        AskReason::Lapsed
    } else if later(KEY_EPOCH) != key_epoch {
        AskReason::OtherEpoch
    } else if probe.exp_s <= later(TIME_FLOOR) || probe.exp_s <= now.realtime_ns / NANOS {
        AskReason::Expired
    } else if later(IAT_FLOOR) != 0 && probe.iat_s <= later(IAT_FLOOR) {
        AskReason::Watermark
    } else {
        return SegmentLookup::Clear;
    };
    SegmentLookup::Ask(reason)
}
