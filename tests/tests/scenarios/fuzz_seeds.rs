//! Runs the fuzz targets on their seeds, with the stable compiler: the short form of `./tests/long
//! fuzz`.

#[allow(clippy::expect_used, missing_docs)] // it is test code that lives elsewhere
#[path = "../../fuzz/src/bodies.rs"]
mod bodies;
#[allow(clippy::expect_used, missing_docs)]
#[path = "../../fuzz/src/login.rs"]
mod login;
#[allow(clippy::expect_used, missing_docs)]
#[path = "../../fuzz/src/request.rs"]
mod request;

use std::path::Path;

/// Runs a fuzz target on one input.
type Target = fn(&[u8]);

#[test]
fn no_seed_breaks_an_invariant() {
    let targets: [(&str, Target); 7] = [
        ("token", bodies::token),
        ("jwks", bodies::jwks),
        ("authorization", request::authorization),
        ("feed", bodies::feed),
        ("segment", bodies::segment),
        ("routes", request::routes),
        ("login", login::bodies),
    ];
    for (name, body) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        let mut tried = 0;
        for seed in std::fs::read_dir(&folder).expect("seeds").flatten() {
            let bytes = std::fs::read(seed.path()).expect("a seed");
            // Each seed, truncated at every length, because parsers fail at their ends.
            for end in 0..=bytes.len() {
                body(&bytes[..end]);
            }
            tried += 1;
        }
        assert!(tried >= 3, "{name} has too few seeds");
    }
}
