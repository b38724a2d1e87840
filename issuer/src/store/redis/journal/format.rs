//! The bytes of a journal (docs/protocol.md, "Journal"): a magic number, then records with a checksum each.

use std::io::{self, Read};

use crc::{CRC_32_ISCSI, Crc};
use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::Revocation;
use sidegate_common::time::UnixTime;

/// What a journal of this version begins with.
pub(super) const MAGIC: &[u8; 8] = b"SGJRNL\0\x01";
/// Length and checksum before each record's payload.
const FRAME_BYTES: usize = 6;
/// The longest payload: a proof with an epoch and a replication id, or an entry; far below.
const PAYLOAD_BYTES_MAX: usize = 1024;

const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

const HEAD: u8 = b'H';
const ENTRY: u8 = b'E';
const PROOF: u8 = b'P';

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The first one: whose journal it is.
    Head { partitions: u16, prefix: String },
    /// A revocation that the log has.
    Entry { own: bool, partition: u16, position: Option<Position>, revocation: Revocation },
    /// Everything in the partition's log at that moment stands before this record.
    Proof(u16, Proof),
}

/// That a journal has everything that a log had, and which log that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) epoch: String,
    pub(crate) replid: String,
    pub(crate) last: Position,
    /// Since when that log had everything.
    pub(crate) since: UnixTime,
    /// The store's clock at that moment.
    pub(crate) now: UnixTime,
}

impl Record {
    /// The record in its frame.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; FRAME_BYTES];
        match self {
            Self::Head { partitions, prefix } => {
                out.push(HEAD);
                out.extend(partitions.to_be_bytes());
                out.extend(prefix.as_bytes());
            }
            Self::Entry { own, partition, position, revocation } => {
                out.extend([ENTRY, u8::from(*own)]);
                out.extend(partition.to_be_bytes());
                put_position(&mut out, position.unwrap_or(Position::START));
                out.extend(revocation.to_bytes());
            }
            Self::Proof(partition, proof) => {
                out.push(PROOF);
                out.extend(partition.to_be_bytes());
                put_position(&mut out, proof.last);
                out.extend(proof.since.0.to_be_bytes());
                out.extend(proof.now.0.to_be_bytes());
                out.extend(format!("{} {}", proof.epoch, proof.replid).as_bytes());
            }
        }
        let length = ((out.len() - FRAME_BYTES) as u16).to_be_bytes();
        out[..2].copy_from_slice(&length);
        let sum = checksum(length, &out[FRAME_BYTES..]);
        out[2..FRAME_BYTES].copy_from_slice(&sum.to_be_bytes());
        out
    }

    fn from_payload(payload: &[u8]) -> Option<Self> {
        let mut rest = Cursor(payload);
        match rest.take::<1>()?[0] {
            HEAD => {
                let partitions = u16::from_be_bytes(rest.take()?);
                Some(Self::Head { partitions, prefix: rest.text()? })
            }
            ENTRY => {
                let own = rest.take::<1>()?[0] & 1 == 1;
                let partition = u16::from_be_bytes(rest.take()?);
                let position = Some(rest.position()?).filter(|position| *position != Position::START);
                let revocation = Revocation::from_bytes(rest.0).ok()?;
                Some(Self::Entry { own, partition, position, revocation })
            }
            PROOF => {
                let partition = u16::from_be_bytes(rest.take()?);
                let last = rest.position()?;
                let (since, now) = (UnixTime(rest.number()?), UnixTime(rest.number()?));
                let text = rest.text()?;
                let (epoch, replid) = text.split_once(' ')?;
                let (epoch, replid) = (epoch.to_owned(), replid.to_owned());
                Some(Self::Proof(partition, Proof { epoch, replid, last, since, now }))
            }
            _ => None,
        }
    }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn position(&mut self) -> Option<Position> {
        Some(Position { ms: self.number()?, sequence: self.number()? })
    }

    fn text(&self) -> Option<String> {
        std::str::from_utf8(self.0).ok().map(str::to_owned)
    }
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend(position.ms.to_be_bytes());
    out.extend(position.sequence.to_be_bytes());
}

fn checksum(length: [u8; 2], payload: &[u8]) -> u32 {
    let mut digest = CHECKSUM.digest();
    digest.update(&length);
    digest.update(payload);
    digest.finalize()
}

/// How the records of a file end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a whole record.
    Whole,
    /// With one that was not written whole: the last writing was cut off.
    Torn,
}

/// Reads records one by one; gives how many bytes were good, and how it ended.
///
/// # Errors
/// The file cannot be read. A checksum that is right over bytes that are none of ours is [`io::ErrorKind::InvalidData`]:
/// another version wrote them.
pub(super) fn read(mut from: impl Read, mut visit: impl FnMut(Record)) -> io::Result<(u64, End)> {
    let mut good = MAGIC.len() as u64;
    let mut payload = [0; PAYLOAD_BYTES_MAX];
    loop {
        let mut frame = [0; FRAME_BYTES];
        match fill(&mut from, &mut frame)? {
            0 => return Ok((good, End::Whole)),
            FRAME_BYTES => {}
            _ => return Ok((good, End::Torn)),
        }
        let [high, low, sum @ ..] = frame;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some(room) = payload.get_mut(..length) else { return Ok((good, End::Torn)) };
        if fill(&mut from, room)? < length || checksum([high, low], room) != u32::from_be_bytes(sum) {
            return Ok((good, End::Torn));
        }
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, "a record of an unknown version");
        visit(Record::from_payload(room).ok_or_else(unknown)?);
        good += (FRAME_BYTES + length) as u64;
    }
}

/// True if a whole record stands somewhere in these bytes, which follow one that is not whole.
pub(super) fn has_record(bytes: &[u8]) -> bool {
    (1..bytes.len()).any(|at| {
        let Some((frame, rest)) = bytes[at..].split_first_chunk::<FRAME_BYTES>() else { return false };
        let [high, low, sum @ ..] = *frame;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let payload = rest.get(..length).filter(|_| (1..=PAYLOAD_BYTES_MAX).contains(&length));
        payload.is_some_and(|payload| checksum([high, low], payload) == u32::from_be_bytes(sum))
    })
}

fn fill(from: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < room.len() {
        match from.read(&mut room[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidegate_common::revocation::{Id, SubjectTag, Target};

    fn records() -> Vec<Record> {
        let sid = Id::parse("AAECAwQFBgcICQoLDA0ODw").unwrap();
        let target = Target::Session { sid, subject: Some(SubjectTag::of("42")) };
        let revocation = Revocation { target, expires_at: UnixTime(1_800_000_000) };
        let position = Some(Position { ms: 1_700_000_000_000, sequence: 7 });
        let proof = Proof {
            epoch: "5k3J_example".into(),
            replid: "ab12".into(),
            last: Position { ms: 1_700_000_000_000, sequence: 7 },
            since: UnixTime(1_600_000_000),
            now: UnixTime(1_700_000_001),
        };
        vec![
            Record::Head { partitions: 4, prefix: "sidegate".into() },
            Record::Entry { own: true, partition: 3, position, revocation: revocation.clone() },
            Record::Entry { own: false, partition: 0, position: None, revocation },
            Record::Proof(3, proof),
        ]
    }

    fn bytes() -> Vec<u8> {
        records().iter().flat_map(Record::to_bytes).collect()
    }

    fn read_all(bytes: &[u8]) -> (Vec<Record>, u64, End) {
        let mut out = Vec::new();
        let (good, end) = read(bytes, |record| out.push(record)).unwrap();
        (out, good, end)
    }

    #[test]
    fn what_is_written_is_read_back_whole_and_in_order() {
        assert_eq!(read_all(&bytes()), (records(), bytes().len() as u64 + 8, End::Whole));
    }

    #[test]
    fn wherever_it_is_cut_the_records_before_are_read() {
        let whole = bytes();
        for cut in 0..whole.len() {
            let (read, good, end) = read_all(&whole[..cut]);
            assert_eq!(read, records()[..read.len()], "cut at {cut}");
            assert_eq!(end == End::Whole, good == cut as u64 + 8, "cut at {cut}");
        }
    }

    #[test]
    fn a_changed_bit_is_noticed_wherever_it_is() {
        let whole = bytes();
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let (read, _, end) = read_all(&changed);
            assert_eq!((end, read.as_slice()), (End::Torn, &records()[..read.len()]), "bit {bit}");
        }
    }

    #[test]
    fn hole_is_distinguished_from_a_torn_tail() {
        let whole = bytes();
        let first = records()[0].to_bytes().len();
        assert!(has_record(&whole[first - 1..]));
        let last = whole.len() - records()[3].to_bytes().len();
        assert!(!has_record(&whole[last..whole.len() - 1]));
    }

    #[test]
    fn the_bytes_of_the_protocol_page() {
        let page = include_str!("../../../../../docs/protocol.md");
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert!(page.contains(&format!("`{}`", hex(MAGIC.to_vec()))), "the magic number: {}", hex(MAGIC.to_vec()));
        for record in records() {
            assert!(page.contains(&format!("`{}`", hex(record.to_bytes()))), "{record:?}: {}", hex(record.to_bytes()));
        }
    }
}
