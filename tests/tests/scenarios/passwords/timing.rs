//! Response times of each class of refused login: a few samples here, thousands with `./tests/long
//! timing`.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use sidegate_tests::random::Random;
use sidegate_tests::stack::{Stack, Store};
use sidegate_tests::users::PASSWORD;

use super::{add, login, users};

const CLASSES: [&str; 9] =
    ["unknown", "wrong12", "wrong10", "disabled", "nopassword", "malformed", "unsupported", "argon2", "argon2-cheap"];
/// Of `PASSWORD`, from Python's argon2-cffi with OWASP's parameters (19 MiB, two passes), and with
/// cheaper ones.
const ARGON2: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$hwFH71rGjoLwav9pl9g9cA$+BT/5fZo6L/HkkxmlU/TKECWehMv8brSchQcDplGP64";
const ARGON2_CHEAP: &str =
    "$argon2id$v=19$m=7168,t=4,p=1$X0kpokoILFHhAeQfyqkvyw$Wk7O4V07DrrEDgE6eDHB+hnOyS5zDkPxxoVfyFNhFfE";
/// Samples of one issuer before the tally is written again.
const BATCH: usize = 25;
/// Two classes differ if |t| is larger (as in dudect: overwhelming evidence is above 10, none below
/// 4.5).
const T_MAX: f64 = 4.5;

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Reads `class nanoseconds`, one sample per line.
fn read_tally(path: &PathBuf) -> Vec<Vec<f64>> {
    let mut samples = vec![Vec::new(); CLASSES.len()];
    for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
        let Some((class, time)) = line.split_once(' ') else { continue };
        if let (Some(class), Ok(time)) = (CLASSES.iter().position(|name| *name == class), time.parse()) {
            samples[class].push(time);
        }
    }
    samples
}

/// Welch's t of two samples.
fn welch(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let spread = |x: &[f64]| {
        let mean = mean(x);
        x.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (x.len() as f64 - 1.0) / x.len() as f64
    };
    (mean(a) - mean(b)) / (spread(a) + spread(b)).sqrt()
}

/// The fastest four fifths: the rest is noise of other programs on the machine.
fn fastest(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.truncate(sorted.len() * 4 / 5);
    sorted
}

/// Prints |t| of each pair, of all samples and of the fastest, and returns the worst of the latter.
fn report(samples: &[Vec<f64>]) -> f64 {
    let cut: Vec<_> = samples.iter().map(|samples| fastest(samples)).collect();
    let mut worst = 0.0_f64;
    for (first, name) in CLASSES.iter().enumerate() {
        let mean = cut[first].iter().sum::<f64>() / cut[first].len() as f64 / 1e6;
        println!("timing: {name}: {} samples, {mean:.3} ms", samples[first].len());
        for second in first + 1..CLASSES.len() {
            let (all, part) = (welch(&samples[first], &samples[second]).abs(), welch(&cut[first], &cut[second]).abs());
            println!("timing: {name} and {}: |t| {all:.2}, of the fastest 80 % {part:.2}", CLASSES[second]);
            worst = worst.max(part);
        }
    }
    println!("timing: worst |t| of the fastest 80 %: {worst:.2}");
    worst
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_refusals() {
    let goal: usize = setting("SIDEGATE_TIMING", "3").parse().expect("a number of samples");
    let (cost, lower) = if goal > BATCH { (12, 10) } else { (5, 4) };
    let tally = std::env::var_os("SIDEGATE_TIMING_TALLY").map(PathBuf::from);
    let settings =
        [("BCRYPT_COST", cost.to_string()), ("BCRYPT_THREADS", "1".to_owned()), ("ARGON2_VERIFY", "true".to_owned())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let stack = Stack::with(Store::Embedded, 0, &settings, &[]).await;
    let pool = users(&stack).await;
    let hash = |cost| bcrypt::hash(PASSWORD, cost).expect("bcrypt");
    let (dear, cheap) = (hash(cost), hash(lower));
    for (class, stored, active) in [
        ("wrong12", Some(dear.as_str()), true),
        ("wrong10", Some(&cheap), true),
        ("disabled", Some(&cheap), false),
        ("nopassword", None, true),
        ("malformed", Some("plain text"), true),
        ("unsupported", Some("$6$salt$hash"), true),
        ("argon2", Some(ARGON2), true),
        ("argon2-cheap", Some(ARGON2_CHEAP), true),
    ] {
        add(&pool, class, stored, active).await;
    }
    // The first check of an Argon2 hash sets the cost; it is not a sample.
    login(&stack, "argon2", "wrong").await;
    let mut samples = tally.as_ref().map_or_else(|| vec![Vec::new(); CLASSES.len()], read_tally);
    let mut random = Random::new(u64::from(std::process::id()));
    while samples.iter().any(|samples| samples.len() < goal) {
        let mut order: Vec<usize> = (0..CLASSES.len() * BATCH.min(goal)).map(|number| number % CLASSES.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, random.between(0, at as u64 + 1) as usize);
        }
        let mut lines = String::new();
        for class in order {
            let password = if CLASSES[class] == "disabled" { PASSWORD } else { "wrong" };
            let started = Instant::now();
            assert_eq!(login(&stack, CLASSES[class], password).await.status, 401);
            let time = started.elapsed().as_nanos();
            samples[class].push(time as f64);
            lines.push_str(&format!("{} {time}\n", CLASSES[class]));
        }
        if let Some(path) = &tally {
            let mut file = std::fs::File::options().create(true).append(true).open(path).expect("the tally");
            file.write_all(lines.as_bytes()).expect("the tally");
        }
    }
    let worst = report(&samples);
    // A few samples prove nothing: rounds are compared elsewhere.
    assert!(goal <= BATCH || worst < T_MAX, "two classes of refused logins differ in time");
}
