//! `howdah.toml` as users write it, right and wrong.
#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use howdah::{Config, Dsn};

const WHOLE: &str = r#"
[catalog]
dsn = "postgres://howdah_app@db1,db2/app"
map_cache = "/var/cache/app/howdah.map"
[auth]
passfile = "/etc/howdah/passfile"
sslmode = "verify-full"
sslrootcert = "/etc/ssl/pg-ca.pem"
sslcert = "/etc/ssl/app.pem"
sslkey = "/etc/ssl/app.key"
owner = "howdah_owner"
mover = "howdah_mover"
[pool]
max_size = 20
min_idle = 2
pipelines = 4
queue_timeout = "5s"
queue_length = 10000
connect_timeout = "5s"
statement_timeout = "30s"
idle_in_transaction_timeout = "45s"
max_lifetime = "1h"
idle_timeout = "10m"
check_delay = "30s"
statement_cache = { entries = 1000, bytes = "16MiB" }
prepared = true
total_max_size = 200
"#;

fn refused(toml: &str) -> String {
    let error = Config::parse(toml).unwrap_err();
    assert!(error.is_config(), "{error:?}");
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn every_documented_key_is_known() {
    let shown = format!("{:?}", Config::parse(WHOLE).unwrap());
    for value in
        ["db1,db2", "howdah.map", "VerifyFull", "app.key", "16777216", "600s", "45s", "200"]
    {
        assert!(shown.contains(value), "{value} is not in {shown}");
    }
}

#[test]
fn the_address_alone_is_enough() {
    assert!(Config::parse("[catalog]\ndsn = \"postgres://app@db1/d\"").is_ok());
}

#[test]
fn unknown_keys_are_refused_with_their_line() {
    for (toml, line, key) in [
        ("[catalog]\ndsn = \"postgres://a@h/d\"\nmapcache = \"x\"", "line 3", "mapcache"),
        ("[catalog]\ndsn = \"postgres://a@h/d\"\n[pool]\n\nsize = 3", "line 5", "size"),
        ("[pools]\nmax_size = 3", "line 1", "pools"),
        ("[pool]\nstatement_cache = { entry = 1 }", "line 2", "entry"),
    ] {
        let message = refused(toml);
        assert!(message.contains(line) && message.contains(key), "{message}");
    }
}

#[test]
fn a_missing_address_is_named() {
    for toml in ["", "[pool]\nmax_size = 3", "[catalog]\n"] {
        assert!(refused(toml).contains("dsn is missing"));
    }
}

#[test]
fn malformed_values_are_refused_with_their_line() {
    let head = "[catalog]\ndsn = \"postgres://a@h/d\"\n";
    for (rest, named) in [
        ("[pool]\nqueue_timeout = \"soon\"", "line 4: \"soon\" is not a duration"),
        ("[pool]\nqueue_timeout = 5", "line 4"),
        ("[pool]\nstatement_cache = { bytes = \"lots\" }", "line 4: \"lots\" is not a size"),
        ("[pool]\nmax_size = -1", "line 4"),
        ("[pool]\nmax_size = 0", "max_size is 0"),
        ("[pool]\nprepared = \"yes\"", "line 4"),
        ("[auth]\nsslmode = \"prefer\"", "falls back to plain text"),
        ("[auth\n", "line 3"),
    ] {
        let message = refused(&format!("{head}{rest}"));
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn a_password_has_no_place_in_the_file_and_is_not_repeated() {
    for toml in [
        "[catalog]\ndsn = \"postgres://app:hunter2@db1/d\"",
        "[catalog]\ndsn = \"postgres://app@db1/d\"\n[auth]\npassword = \"hunter2\"",
        "[catalog]\ndsn = \"postgres://app@db1/d\"\n[auth]\npassword = \"hunter2",
    ] {
        assert!(!refused(toml).contains("hunter2"));
    }
    assert!(refused("[auth]\npassword = \"hunter2\"").contains("HOWDAH_PASSWORD"));
}

#[test]
fn debug_shows_no_password() {
    let config = Config::new("postgres://app@db1/d").password("hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    let wrong = Config::new("postgres://app:hunter2@db1/d");
    assert!(!format!("{wrong:?}").contains("hunter2"));
}

#[test]
fn paths_start_from_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("howdah.toml");
    let toml = "[catalog]\ndsn = \"postgres://app@db1/d\"\n[auth]\npassfile = \"secrets/passfile\"";
    fs::write(&path, toml).unwrap();
    let expected = folder.path().join("secrets/passfile");
    for read in [Config::from_file(&path), Config::from_file_alone(&path)] {
        let shown = format!("{:?}", read.unwrap());
        assert!(shown.contains(expected.to_str().unwrap()), "{shown}");
    }
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.toml");
    let missing = Config::from_file(&path).unwrap_err();
    assert!(missing.is_config() && missing.to_string().contains("other.toml"), "{missing}");

    fs::write(&path, "[catalog]\nnothing = 1").unwrap();
    let unknown = Config::from_file(&path).unwrap_err().to_string();
    assert!(unknown.contains("other.toml, line 2"), "{unknown}");

    fs::write(&path, [0xff, 0xfe]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Config::from_file(&path).unwrap_err().is_config());
}

#[test]
fn an_address_parses_and_shows_itself() {
    let dsn: Dsn = " postgres://app@db1:5433,db2/d?application_name=x ".parse().unwrap();
    assert_eq!(dsn.to_string(), "postgres://app@db1:5433,db2/d?application_name=x");
    assert_eq!(format!("{dsn:?}"), dsn.to_string());
}
