//! Makes gRPC's C-core work over Unix sockets. C-core sends the socket's path, percent-encoded, as
//! `:authority`, which is invalid by RFC 3986, so h2 resets the stream. Since no code reads the
//! authority of a Unix socket, `%` is replaced by `-` before h2 reads it. Only complete HEADERS
//! frames with plain strings are changed, as C-core sends them (RFC 7541 §6.2).

/// Bytes before the first frame.
const PREFACE_BYTES: usize = 24;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// `:authority` in HPACK's static table.
const AUTHORITY_INDEX: usize = 1;

/// The position in the bytes of an h2 connection.
#[derive(Debug)]
pub(crate) struct UnixAuthority {
    /// Bytes until the next frame begins.
    skip: usize,
    /// The received part of that frame's header.
    head: [u8; 9],
    known: usize,
}

impl UnixAuthority {
    /// At the first byte of a connection.
    pub(crate) const fn new() -> Self {
        Self { skip: PREFACE_BYTES, head: [0; 9], known: 0 }
    }

    /// Rewrites the next bytes of a connection.
    pub(crate) fn rewrite(&mut self, mut bytes: &mut [u8]) {
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
                let _malformed = rewrite_block(&mut payload[..self.skip], flags);
            }
            bytes = payload;
        }
    }
}

/// `None` if the block is malformed; h2 reports it.
fn rewrite_block(frame: &mut [u8], flags: u8) -> Option<()> {
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

/// An integer with a prefix of `prefix` bits (RFC 7541 §5.1).
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

/// The range of a string (RFC 7541 §5.2); empty for a Huffman-coded string, which is not rewritten.
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

    fn rewritten(bytes: &[u8], pieces: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut authority = UnixAuthority::new();
        bytes.chunks_mut(pieces).for_each(|piece| authority.rewrite(piece));
        bytes
    }

    #[test]
    fn only_the_authority_of_a_recorded_call_changes() {
        let bytes = recorded();
        let text = String::from_utf8_lossy(&bytes).replace("tmp%2Fhm%2Frec.sock", "tmp-2Fhm-2Frec.sock");
        assert_eq!(String::from_utf8_lossy(&rewritten(&bytes, bytes.len())), text);
        assert_eq!(rewritten(&rewritten(&bytes, bytes.len()), bytes.len()), rewritten(&bytes, bytes.len()));
    }

    #[test]
    fn frames_in_any_pieces_are_parsed() {
        let bytes = recorded();
        // The preface and the settings first, a byte at a time: the frames after them arrive
        // complete.
        for cut in 1..91 {
            let mut copy = bytes.clone();
            let mut authority = UnixAuthority::new();
            let (first, rest) = copy.split_at_mut(cut);
            first.chunks_mut(1).for_each(|byte| authority.rewrite(byte));
            authority.rewrite(rest);
            assert_eq!(copy, rewritten(&bytes, bytes.len()), "{cut}");
        }
        assert_eq!(rewritten(&bytes, 1), bytes, "frames in pieces are not changed");
    }

    #[test]
    fn malformed_blocks_are_left_alone() {
        for block in
            [&b"@"[..], b"@\x7f\xff\xff\xff\xff\xff", b"@\n:authority", b"\x41\x7f%", b"\x41", b"\xff\xff", b"@\x85xx"]
        {
            let mut copy = block.to_vec();
            let _malformed = rewrite_block(&mut copy, PADDED | PRIORITY);
            let _malformed = rewrite_block(&mut copy, 0);
            assert_eq!(copy, block);
        }
        let mut indexed = b"\x3f\x01\x82\x41\x04a%2F".to_vec();
        assert_eq!(rewrite_block(&mut indexed, 0), Some(()));
        assert_eq!(indexed, b"\x3f\x01\x82\x41\x04a-2F");
    }
}
