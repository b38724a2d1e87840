//! Finds misspelt names of settings, which would otherwise silently have no effect.

use super::Setting;

/// An unknown variable, and the setting that was probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The variable's name.
    pub given: String,
    /// The setting with a similar name.
    pub meant: String,
}

impl std::fmt::Display for NearMiss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown setting {}, ignored; did you mean {}?", self.given, self.meant)
    }
}

/// Shorter names may differ by one letter only.
const SHORT: usize = 9;

/// The names of a setting: its own, and that of its file.
fn names(table: &[Setting]) -> impl Iterator<Item = String> {
    table.iter().flat_map(|setting| {
        let file = setting.secret.then(|| format!("{}_FILE", setting.name));
        [Some(setting.name.to_owned()), file].into_iter().flatten()
    })
}

/// The variables among `given` whose names are close to a setting's. Others belong to other
/// programs and are skipped.
pub(super) fn near_misses(table: &[Setting], given: Vec<String>) -> Vec<NearMiss> {
    let mut found: Vec<NearMiss> = given
        .into_iter()
        .filter(|given| !names(table).any(|name| name == *given))
        .filter_map(|given| suggestion(table, &given).map(|meant| NearMiss { given, meant }))
        .collect();
    found.sort_by(|a, b| a.given.cmp(&b.given));
    found
}

/// The setting whose name is closest to `given`, if it is close enough.
pub(super) fn suggestion(table: &[Setting], given: &str) -> Option<String> {
    let upper = given.to_ascii_uppercase().replace('-', "_");
    let near = |name: &str| {
        let distance = distance(&upper, name);
        (distance <= if name.len() < SHORT { 1 } else { 2 }).then_some(distance)
    };
    let candidates = names(table).filter_map(|name| near(&name).map(|distance| (distance, name)));
    candidates.min().map(|(_, name)| name)
}

/// The number of letters to insert, delete, replace or swap with a neighbour to turn `a` into `b`
/// (the optimal string alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = [Vec::new(), Vec::new(), (0..=b.len()).collect::<Vec<usize>>()];
    for (i, from) in a.iter().enumerate() {
        rows.rotate_left(1);
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = rows[1][j] + usize::from(from != to);
            let mut least = replaced.min(rows[1][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                least = least.min(rows[0][j - 1] + 1);
            }
            row.push(least);
        }
        rows[2] = row;
    }
    rows[2][b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::{secret, setting};
    use super::*;

    static TABLE: &[Setting] = &[
        setting("ACCESS_TOKEN_TTL", "24h", ""),
        setting("LEEWAY", "5s", ""),
        secret("JWT_SECRET_KEY", ""),
        secret("REDIS_URL", ""),
    ];

    #[test]
    fn distances_count_typing_mistakes() {
        for (a, b, expected) in
            [("", "AB", 2), ("AB", "AB", 0), ("ACESS", "ACCESS", 1), ("URL", "ULR", 1), ("A", "B", 1)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn misspelt_names_are_found_and_others_skipped() {
        for (given, meant) in [
            ("ACESS_TOKEN_TTL", "ACCESS_TOKEN_TTL"),
            ("ACCESS_TOKEN_TLL", "ACCESS_TOKEN_TTL"),
            ("ACCESS-TOKEN-TTL", "ACCESS_TOKEN_TTL"),
            ("access_token_ttl", "ACCESS_TOKEN_TTL"),
            ("JWT_SECRET_KEYS", "JWT_SECRET_KEY"),
            ("JWT_SECRETKEY_FILE", "JWT_SECRET_KEY_FILE"),
            ("REDIS_URI", "REDIS_URL"),
            ("LEEWAYS", "LEEWAY"),
        ] {
            assert_eq!(suggestion(TABLE, given).as_deref(), Some(meant), "{given}");
        }
        let foreign = ["PATH", "HOME", "REDIS_HOST", "REDIS_PORT_6379_TCP", "JWT_ALGORITHM", "SECRET_KEY", "GATEWAY"];
        for given in foreign {
            assert_eq!(suggestion(TABLE, given), None, "{given}");
        }
        let given = ["LEEWAY", "JWT_SECRET_KEY_FILE", "PATH", "LEWAY"].map(str::to_owned).to_vec();
        let found = near_misses(TABLE, given);
        assert_eq!(found, [NearMiss { given: "LEWAY".into(), meant: "LEEWAY".into() }]);
    }
}
