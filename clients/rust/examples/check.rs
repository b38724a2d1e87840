//! Checks the tokens on standard input, one per line, and prints how long each took.
//!
//! `VERIFIER_SOCKET=... ATTACH_SOCKET=... cargo run -p sidegate-client --example check < tokens`

use std::io::BufRead as _;
use std::time::Instant;

use sidegate_client::Sidegate;

fn main() -> std::io::Result<()> {
    let sidegate = Sidegate::connect();
    for token in std::io::stdin().lock().lines() {
        let token = token?;
        let begin = Instant::now();
        let answer = sidegate.check(token.trim());
        let took = begin.elapsed();
        match answer {
            Ok(verified) => println!("good: {} until {} ({took:?})", verified.subject(), verified.expires_at()),
            Err(denied) => println!("{}: {denied} ({took:?})", denied.code()),
        }
    }
    Ok(())
}
