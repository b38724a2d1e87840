//! What is said when a socket cannot be bound: the setting, the cause, and what would work.

use std::io;
use std::path::Path;

/// Names `setting` in an error of binding a TCP address, and says what to do.
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

/// Names `setting` in an error of binding a Unix socket, and says what to do.
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
