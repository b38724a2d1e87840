//! docs/configuration.md: generated from the tables of settings, and compared with them.

use std::fmt::Write as _;
use std::path::Path;

use sidegate_runtime::settings::Setting;

const INTRODUCTION: &str = "# Configuration

<!-- Generated: UPDATE_DOCS=1 cargo test --release --workspace --test scenarios configuration_page -->

Each program reads environment variables, then the TOML file of `--config` (the same names, in any case), then these defaults; `--help` prints the
same table and `check-config` the values in effect. An empty value counts as unset. Durations: `250ms`, `30s`, `5m`, `24h`, `90d`.

Settings with *file* may also be given as `NAME_FILE`, a file whose content is the value. SIGHUP reads *reloaded* ones again, all or none:
credentials of Redis once they work, new keys at once; the log names those that need a restart, and `config reload failed` means that nothing
changed. Adding or removing `ADMIN_TOKEN` or the issuer's `FEED_TOKEN` needs a restart. The contents of `JWKS_FILE`, `ROUTES_FILE` (SIGHUP) and
`JWT_KEYS_DIR` (each second) are read again too.
";

/// True if both programs have the setting with the same default and meaning.
fn same(one: &Setting, other: &Setting) -> bool {
    (one.name, one.default, one.help, one.reloaded) == (other.name, other.default, other.help, other.reloaded)
}

/// A row of the table. Rows have no blanks around their bars, because the word count of the page
/// would otherwise grow by half.
fn row(setting: &Setting) -> String {
    let mut notes = Vec::new();
    if setting.secret {
        notes.push("*file*");
    }
    if setting.reloaded {
        notes.push("*reloaded*");
    }
    let default = if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
    let meaning = [&[setting.help.replace('|', "\\|")], &notes.iter().map(ToString::to_string).collect::<Vec<_>>()[..]];
    format!("|`{}`|{default}|{}|\n", setting.name, meaning.concat().join("; "))
}

fn page() -> String {
    let (issuer, verifier) = (sidegate_issuer::config::SETTINGS, sidegate_verifier::config::SETTINGS);
    let in_both = |setting: &Setting, other: &[Setting]| other.iter().any(|one| same(one, setting));
    let sections: [(&str, Vec<&Setting>); 3] = [
        ("Issuer", issuer.iter().filter(|setting| !in_both(setting, verifier)).collect()),
        ("Verifier", verifier.iter().filter(|setting| !in_both(setting, issuer)).collect()),
        ("Both programs", issuer.iter().filter(|setting| in_both(setting, verifier)).collect()),
    ];
    let mut page = INTRODUCTION.to_owned();
    for (title, settings) in sections {
        write!(page, "\n## {title}\n\n|setting|default|meaning|\n|---|---|---|\n").expect("a string takes it");
        settings.into_iter().for_each(|setting| page.push_str(&row(setting)));
    }
    page
}

#[test]
fn configuration_page_is_what_the_programs_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/configuration.md is written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(written.lines().chain(std::iter::repeat(""))).find(|(right, is)| right != is);
    assert_eq!(differs, None, "docs/configuration.md is out of date: run the test with UPDATE_DOCS=1");
    assert_eq!(page.lines().count(), written.lines().count(), "docs/configuration.md has more than the settings");
}
