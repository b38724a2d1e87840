//! Error messages for sockets that cannot be bound: the setting, the cause, and the remedy.

use std::io;
use std::path::Path;

/// Adds `setting` and a remedy to an error of binding a TCP address.
pub fn tcp(setting: &str, error: &io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there, or set another address",
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has this address; set one that it has, or 0.0.0.0"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE; set a higher one",
        _ => "set another address",
    };
    io::Error::new(error.kind(), format!("{setting}: {error}: {advice}"))
}

/// Adds `setting` and a remedy to an error of binding a Unix socket.
pub fn unix(setting: &str, path: &Path, error: &io::Error) -> io::Error {
    let name = path.file_name().map_or_else(|| "verifier.sock".into(), |name| name.to_string_lossy());
    let folder = std::env::var("XDG_RUNTIME_DIR").unwrap_or_else(|_| std::env::temp_dir().display().to_string());
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there, or set another path".to_owned(),
        io::ErrorKind::AlreadyExists => "remove the file, or set another path".to_owned(),
        _ => {
            format!("set a path where this user may write, such as {folder}/sidegate/{name}, here and for the clients")
        }
    };
    io::Error::new(error.kind(), format!("{setting}: {error}: {advice}"))
}
