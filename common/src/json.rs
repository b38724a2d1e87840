//! JSON without duplicate members at any depth (RFC 7515 §4, RFC 7517 §4, RFC 7519 §4): serde_json alone keeps the last.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// The nesting limit. No document that Sidegate reads comes near it, and each level costs the
/// reader far more than its one byte costs the sender.
const DEPTH_MAX: u8 = 16;

/// Parses a document without duplicate members; `None` if it is malformed or has one.
pub(crate) fn parse(bytes: &[u8]) -> Option<serde_json::Value> {
    // serde_json does not check the encoding of values that it skips.
    let text = std::str::from_utf8(bytes).ok()?;
    let mut json = serde_json::Deserializer::from_str(text);
    // The document's length is limit enough.
    Unread::new(&Budget::new(usize::MAX)).deserialize(&mut json).ok()?;
    serde_json::from_str(text).ok()
}

/// A member's name, borrowed where it has no escapes.
pub(crate) struct Name<'de>(pub Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// The names an object has had so far. The first few are stored inline: most objects have no more,
/// and a hundred nested objects must not cost an allocation each.
#[derive(Default)]
struct Names<'de> {
    few: [Cow<'de, str>; 2],
    count: usize,
    more: Option<HashSet<Cow<'de, str>>>,
}

impl<'de> Names<'de> {
    /// Adds a name; false if the object has it already.
    fn add(&mut self, name: Cow<'de, str>) -> bool {
        if self.few[..self.count].contains(&name) {
            return false;
        }
        match self.few.get_mut(self.count) {
            Some(place) => {
                *place = name;
                self.count += 1;
                true
            }
            None => self.more.get_or_insert_default().insert(name),
        }
    }
}

/// A value that is skipped, but must still be JSON without duplicate members and not nested too
/// deep. `above` counts the levels around it.
#[derive(Clone, Copy)]
pub(crate) struct Unread<'a> {
    above: u8,
    budget: &'a Budget,
}

/// How many values the skipped values of a document may contain.
pub(crate) struct Budget(Cell<usize>);

impl Budget {
    /// A budget of `values`.
    pub(crate) const fn new(values: usize) -> Self {
        Self(Cell::new(values))
    }

    /// Counts one value.
    pub(crate) fn spend<E: serde::de::Error>(&self) -> Result<(), E> {
        self.0.set(self.0.get().checked_sub(1).ok_or_else(|| E::custom("too many values"))?);
        Ok(())
    }
}

impl<'a> Unread<'a> {
    /// At the top level, with the budget that all skipped values share.
    pub(crate) const fn new(budget: &'a Budget) -> Self {
        Self { above: 0, budget }
    }

    fn within<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.above < DEPTH_MAX {
            Ok(Self { above: self.above + 1, ..self })
        } else {
            Err(E::custom("nested too deep"))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Unread<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unread<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.within()?;
        while seq.next_element_seed(inner)?.is_some() {
            self.budget.spend()?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.within()?;
        let mut names = Names::default();
        while let Some(Name(name)) = map.next_key()? {
            self.budget.spend()?;
            if !names.add(name) {
                return Err(A::Error::custom("duplicate member"));
            }
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_member_is_an_error() {
        for members in [1, 2, 3, 4, 60] {
            let names: Vec<_> = (0..members).map(|n| format!("\"m{n}\":0")).collect();
            assert!(parse(format!("{{{}}}", names.join(",")).as_bytes()).is_some(), "{members}");
            for twice in 0..members {
                let object = format!("{{{},\"m{twice}\":1}}", names.join(","));
                assert!(parse(object.as_bytes()).is_none(), "{object}");
                assert!(parse(format!("[{object}]").as_bytes()).is_none(), "nested {object}");
            }
        }
    }

    #[test]
    fn nesting_depth_is_limited() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |depth: usize| format!("{}0{}", open.repeat(depth), close.repeat(depth));
            assert!(parse(nested(usize::from(DEPTH_MAX)).as_bytes()).is_some());
            assert!(parse(nested(usize::from(DEPTH_MAX) + 1).as_bytes()).is_none());
        }
    }
}
