//! Makes gRPC's C-core welcome on Unix sockets: it names the socket's path, percent-encoded, as `:authority`, which is none by RFC 3986,
//! and h2 resets such a stream. Nobody reads the authority of a Unix socket, so that `%` is replaced by `-` where it stands, before
//! h2 reads it. Only whole HEADERS frames are looked at, and only texts as they are, which is what C-core sends (RFC 7541 §6.2).

/// Bytes before the first frame.
const PREFACE_BYTES: usize = 24;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// `:authority` in HPACK's static table.
const AUTHORITY_INDEX: usize = 1;

/// Where the bytes of an h2 connection stand.
#[derive(Debug)]
pub(crate) struct UnixAuthority {
    /// Bytes until the next frame begins.
    skip: usize,
    /// The head of that frame, as far as it has come.
    head: [u8; 9],
    known: usize,
}

impl UnixAuthority {
    /// At the very first byte of a connection.
    pub(crate) const fn new() -> Self {
        Self { skip: PREFACE_BYTES, head: [0; 9], known: 0 }
    }

    /// Looks at the next bytes of a connection.
    pub(crate) fn mend(&mut self, mut bytes: &mut [u8]) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &mut bytes[skipped..];
            let wanted = (self.head.len() - self.known).min(bytes.len());
            if wanted == 0 {
                return;
            }
            let (head, payload) = bytes.split_at_mut(wanted);
            self.head[self.known..self.known + wanted].copy_from_slice(head);
            self.known += wanted;
            if self.known < self.head.len() {
                return;
            }
            self.known = 0;
            let [a, b, c, kind, flags, ..] = self.head;
            self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind == HEADERS && self.skip <= payload.len() {
                let _malformed = mend_block(&mut payload[..self.skip], flags);
            }
            bytes = payload;
        }
    }
}

/// None where the block is malformed, of which h2 will say more.
fn mend_block(frame: &mut [u8], flags: u8) -> Option<()> {
    let mut at = usize::from(flags & PADDED != 0) + if flags & PRIORITY == 0 { 0 } else { 5 };
    while let Some(&first) = frame.get(at) {
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = number(frame, &mut at, prefix)?;
        if prefix == 7 || prefix == 5 {
            continue;
        }
        let named = if index == 0 {
            let name = text(frame, &mut at)?;
            frame.get(name)? == b":authority"
        } else {
            index == AUTHORITY_INDEX
        };
        let value = text(frame, &mut at)?;
        if named {
            frame.get_mut(value)?.iter_mut().filter(|byte| **byte == b'%').for_each(|byte| *byte = b'-');
        }
    }
    Some(())
}

/// An integer whose first byte has so many bits of it (RFC 7541 §5.1).
fn number(bytes: &[u8], at: &mut usize, prefix: u8) -> Option<usize> {
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(*bytes.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*bytes.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Where a text lies (RFC 7541 §5.2); an empty place for one in Huffman's code, which is not looked at.
fn text(bytes: &[u8], at: &mut usize) -> Option<std::ops::Range<usize>> {
    let huffman = bytes.get(*at)? & 0x80 != 0;
    let length = number(bytes, at, 7)?;
    let start = *at;
    *at = start.checked_add(length)?;
    Some(if huffman { start..start } else { start..*at })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What grpcio 1.85.3 sends for `unix:/tmp/hm/rec.sock`: settings, window, and a call with a message.
    fn recorded() -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
            let [.., high, low] = payload.len().to_be_bytes();
            bytes.extend([0, high, low, kind, flags, 0, 0, 0, stream]);
            bytes.extend(payload);
        };
        let settings = b"\x00\x02\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x04\x00@\x00\x00\x00\x05\x00@\x00\x00\x00\x06\x00\x00@\x00\xfe\x03\x00\x00\x00\x01";
        frame(4, 0, 0, settings);
        frame(8, 0, 0, b"\x00?\x00\x01");
        frame(
            1,
            4,
            1,
            b"@\x05:path*/envoy.service.auth.v3.Authorization/Check@\n:authority\x13tmp%2Fhm%2Frec.sock\x83\x86\
              @\x0ccontent-type\x10application/grpc@\x02te\x08trailers@\x14grpc-accept-encoding\x17identity, deflate, gzip\
              @\x0cgrpc-timeout\x04991m@\nuser-agent0grpc-python/1.85.3 grpc-c/58.0.0 (linux; chttp2)",
        );
        frame(0, 1, 1, b"\x00\x00\x00\x00\x00:authority%2F");
        bytes
    }

    fn mended(bytes: &[u8], pieces: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut authority = UnixAuthority::new();
        bytes.chunks_mut(pieces).for_each(|piece| authority.mend(piece));
        bytes
    }

    #[test]
    fn authority_of_a_recorded_call_is_mended_and_nothing_else() {
        let bytes = recorded();
        let text = String::from_utf8_lossy(&bytes).replace("tmp%2Fhm%2Frec.sock", "tmp-2Fhm-2Frec.sock");
        assert_eq!(String::from_utf8_lossy(&mended(&bytes, bytes.len())), text);
        assert_eq!(mended(&mended(&bytes, bytes.len()), bytes.len()), mended(&bytes, bytes.len()));
    }

    #[test]
    fn frames_in_any_pieces_are_followed() {
        let bytes = recorded();
        // The preface and the settings first, a byte at a time: the frames after them come whole.
        for cut in 1..91 {
            let mut copy = bytes.clone();
            let mut authority = UnixAuthority::new();
            let (first, rest) = copy.split_at_mut(cut);
            first.chunks_mut(1).for_each(|byte| authority.mend(byte));
            authority.mend(rest);
            assert_eq!(copy, mended(&bytes, bytes.len()), "{cut}");
        }
        assert_eq!(mended(&bytes, 1), bytes, "what does not come whole is left as it is");
    }

    #[test]
    fn malformed_blocks_are_left_alone() {
        for block in
            [&b"@"[..], b"@\x7f\xff\xff\xff\xff\xff", b"@\n:authority", b"\x41\x7f%", b"\x41", b"\xff\xff", b"@\x85xx"]
        {
            let mut copy = block.to_vec();
            let _malformed = mend_block(&mut copy, PADDED | PRIORITY);
            let _malformed = mend_block(&mut copy, 0);
            assert_eq!(copy, block);
        }
        let mut indexed = b"\x3f\x01\x82\x41\x04a%2F".to_vec();
        assert_eq!(mend_block(&mut indexed, 0), Some(()));
        assert_eq!(indexed, b"\x3f\x01\x82\x41\x04a-2F");
    }
}
