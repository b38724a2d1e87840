//! Tests of settings: sources, errors, masking, reload.

use super::*;

static TABLE: &[Setting] = &[
    setting("LISTEN", "127.0.0.1:1", "where to listen"),
    setting("TTL", "24h", "how long"),
    setting("STORE", "", "where to store"),
    secret("KEY", "the key").reloaded(),
    secret_url("ADDRESS", "where it is").reloaded(),
];

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(pairs: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    Settings::load(TABLE, &environment(pairs), None)
}

fn scratch(name: &str, text: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("sidegate-settings-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn environment_beats_file_beats_default() {
    let path = scratch("a.toml", "listen = \"127.0.0.1:2\"\nttl = \"1h\"\n");
    let settings =
        Settings::load(TABLE, &environment(&[("LISTEN", "127.0.0.1:3"), ("STORE", "")]), Some(&path)).unwrap();
    assert_eq!(settings.text("LISTEN"), Some("127.0.0.1:3"));
    assert_eq!(settings.duration("TTL"), Ok(Duration::from_secs(3600)));
    assert_eq!(settings.text("STORE"), None, "empty counts as unset");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn errors_name_the_setting_and_what_would_be_right() {
    let error = load(&[("TTL", "soon")]).unwrap().duration("TTL").unwrap_err();
    assert_eq!(error.setting, "TTL");
    assert!(error.problem.contains("\"soon\" is not a duration such as 30s"), "{error}");
    let error = load(&[]).unwrap().required("STORE").unwrap_err();
    assert_eq!(error.to_string(), "STORE: is not set; where to store");
}

#[test]
fn secret_is_read_from_a_file_and_never_shown() {
    let path = scratch("key", "canary-value\n");
    let settings = load(&[("KEY_FILE", path.to_str().unwrap())]).unwrap();
    assert_eq!(settings.text("KEY"), Some("canary-value"));
    assert!(!settings.describe().contains("canary"));
    assert!(!settings.unfit("KEY", "better").to_string().contains("canary"));
    let both = load(&[("KEY_FILE", path.to_str().unwrap()), ("KEY", "x")]).err().unwrap();
    assert_eq!(both.setting, "KEY");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = load(&[("KEY_FILE", path.to_str().unwrap())]).err().unwrap();
    assert!(error.problem.contains("has mode 0666") && error.setting == "KEY_FILE", "{error}");
    std::fs::remove_file(path).unwrap();
    assert_eq!(load(&[("KEY_FILE", "/nonexistent/key")]).err().unwrap().setting, "KEY_FILE");
}

#[test]
fn unknown_key_is_an_error() {
    let path = scratch("b.toml", "lisen = \"x\"\n");
    let error = Settings::load(TABLE, &environment(&[]), Some(&path)).err().unwrap();
    assert_eq!(error.setting, "lisen");
    assert!(error.problem.contains("did you mean LISTEN?"), "{error}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn reload_applies_values_or_names_those_needing_restart() {
    let mut held = load(&[("KEY", "old"), ("TTL", "1h"), ("ADDRESS", "redis://u:old@h")]).unwrap();
    let fresh = load(&[("KEY", "new"), ("TTL", "2h"), ("STORE", "s")]).unwrap();
    let changes = held.take_up(&fresh, &[]);
    assert_eq!(changes.taken_up, ["KEY", "ADDRESS"]);
    assert_eq!(changes.need_restart, ["TTL", "STORE"]);
    assert_eq!((held.text("KEY"), held.text("ADDRESS"), held.text("TTL")), (Some("new"), None, Some("1h")));
    let again = held.take_up(&fresh, &[]);
    assert_eq!((again.taken_up.len(), again.need_restart), (0, vec!["TTL", "STORE"]), "until it is restarted");
    let newer = load(&[("KEY", "newer"), ("TTL", "1h")]).unwrap();
    assert_eq!(held.take_up(&newer, &["KEY"]).need_restart, ["KEY"]);
    assert_eq!(held.text("KEY"), Some("new"));
}

#[test]
fn value_that_is_not_utf8_is_an_error() {
    struct Bytes;
    impl Environment for Bytes {
        fn variable(&self, name: &str) -> Option<OsString> {
            use std::os::unix::ffi::OsStringExt as _;
            (name == "TTL").then(|| OsString::from_vec(vec![0xff]))
        }
        fn names(&self) -> Vec<String> {
            Vec::new()
        }
    }
    assert_eq!(Settings::load(TABLE, &Bytes, None).err().unwrap().to_string(), "TTL: is not UTF-8");
}

#[test]
fn only_the_url_password_is_masked() {
    let settings = load(&[("ADDRESS", "redis://u:canary@h:1/0"), ("KEY", "canary")]).unwrap();
    let text = settings.describe();
    assert!(text.contains("ADDRESS = \"redis://u:***@h:1/0\"") && !text.contains("canary"), "{text}");
}

#[test]
fn help_lists_every_setting() {
    let text = help(TABLE);
    for setting in TABLE {
        assert!(text.contains(setting.name) && text.contains(setting.help));
    }
    assert!(text.contains("KEY_FILE"));
}
