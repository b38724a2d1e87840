//! Parses `traceparent` (W3C Trace Context), strictly, because its content is logged and exported.

use std::fmt;

use http::HeaderMap;

/// The longest `tracestate` that is passed on, in bytes: the standard's minimum.
#[cfg(feature = "otel")]
const STATE_BYTES_MAX: usize = 512;

/// The identifier of a trace; 32 hexadecimal digits in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub(super) u128);

impl fmt::Display for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

/// A request's parent span, as the client claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent<'a> {
    pub(super) trace: TraceId,
    pub(super) span: u64,
    pub(super) sampled: bool,
    pub(super) state: Option<&'a [u8]>,
}

impl<'a> Parent<'a> {
    /// Parses the two headers; `None` if `traceparent` is malformed.
    pub fn read(traceparent: &[u8], tracestate: Option<&'a [u8]>) -> Option<Self> {
        // version "-" trace id "-" parent id "-" flags; later versions may add more after another
        // dash.
        let known = traceparent.get(..55)?;
        let rest = &traceparent[55..];
        let version = hex(&known[..2])?;
        let more_is_fine = version != 0 && rest.first() == Some(&b'-');
        if version == 0xff || !(rest.is_empty() || more_is_fine) || [2, 35, 52].iter().any(|at| known[*at] != b'-') {
            return None;
        }
        let (trace, span, flags) = (hex(&known[3..35])?, hex(&known[36..52])? as u64, hex(&known[53..])?);
        (trace != 0 && span != 0).then_some(Self {
            trace: TraceId(trace),
            span,
            sampled: flags & 1 == 1,
            state: tracestate,
        })
    }

    /// The parent in a request's headers. Two `traceparent`s count as none, and two `tracestate`s
    /// are ignored.
    pub fn of(headers: &'a HeaderMap) -> Option<Self> {
        let single = |name| {
            let mut values = headers.get_all(name).into_iter();
            values.next().filter(|_| values.next().is_none()).map(http::HeaderValue::as_bytes)
        };
        Self::read(single("traceparent")?, single("tracestate"))
    }

    /// The trace id.
    pub const fn trace_id(&self) -> TraceId {
        self.trace
    }

    /// The `tracestate`, if it is text of acceptable length.
    #[cfg(feature = "otel")]
    pub(super) fn state(&self) -> Option<&'a str> {
        self.state.filter(|state| state.len() <= STATE_BYTES_MAX).and_then(|state| std::str::from_utf8(state).ok())
    }
}

/// Parses up to 32 lowercase hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn trace(traceparent: &str) -> Option<String> {
        Parent::read(traceparent.as_bytes(), None).map(|parent| parent.trace_id().to_string())
    }

    #[test]
    fn parent_parses() {
        let parent = Parent::read(GOOD.as_bytes(), Some(b"a=b")).unwrap();
        assert_eq!(parent.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((parent.span, parent.sampled), (0xb7ad_6b71_6920_3331, true));
        assert!(!Parent::read(GOOD.replace("-01", "-02").as_bytes(), None).unwrap().sampled);
        assert!(trace(&GOOD.replacen("00", "cc", 1)).is_some(), "a later version");
        assert!(trace(&format!("{}-what-will-be-next", GOOD.replacen("00", "cc", 1))).is_some());
    }

    #[test]
    fn malformed_parent_is_ignored() {
        for bad in [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-x"),
            format!("{}x", GOOD.replacen("00", "cc", 1)),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "0x", 1),
            GOOD.to_uppercase(),
            GOOD.replace('-', "_"),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            GOOD.replace("0af7", "\"\\\n+"),
            GOOD.replace("0af7", "é7"),
        ] {
            assert_eq!(trace(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn two_parents_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", GOOD.parse().unwrap());
        assert!(Parent::of(&headers).is_some());
        headers.append("traceparent", GOOD.parse().unwrap());
        assert!(Parent::of(&headers).is_none());
    }
}
