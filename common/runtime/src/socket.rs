//! Binds TCP and Unix sockets: a live socket is never replaced, a dead one is removed.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};

use crate::systemd::{inherited_tcp, inherited_unix};

/// The length of the accept queue.
const BACKLOG: i32 = 4096;
/// The kernel's buffers of a TCP connection, which it doubles for its own needs, in bytes.
const KERNEL_BUFFER_BYTES: usize = 64 * 1024;

/// The longest wait of [`Listener::defer_accept`]: clients give up after two seconds.
const DEFER_MAX: Duration = Duration::from_secs(1);
const DEFER_POLL: Duration = Duration::from_millis(2);

/// A bound socket that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port, and its owner.
    Tcp(TcpListener, Owner),
    /// A Unix socket; its file is removed when the listener is dropped.
    Unix(UnixListener, SocketFile),
}

/// The owner of a listening socket, which decides whether it outlives this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This process.
    Us,
    /// The service manager: connections made between two processes wait for the next one.
    ServiceManager,
}

/// A connection accepted from the kernel's queue during a stop.
#[derive(Debug)]
pub enum Accepted {
    /// Over TCP, with the client's address.
    Tcp(std::net::TcpStream, SocketAddr),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// The file of a Unix socket. Dropping it removes the file if this process made it and no other
/// process has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// `None` if the service manager made the file.
    inode: Option<u64>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have put its own socket here since: only our own file is removed.
        if self.inode.is_some() && inode(&self.path).ok() == self.inode {
            let _gone_already = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::symlink_metadata(path)?.ino())
}

impl Listener {
    /// Binds a TCP address; port 0 takes a free one. A socket that the service manager passed for
    /// the address is used instead.
    ///
    /// # Errors
    /// The operating system's error, with the address.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let bind = || {
            if let Some(inherited) = inherited_tcp(address)? {
                return Ok(Self::Tcp(TcpListener::from_std(inherited)?, Owner::ServiceManager));
            }
            let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            // Connections inherit them: otherwise the kernel's buffers grow to megabytes for a
            // client that does not read.
            socket.set_send_buffer_size(KERNEL_BUFFER_BYTES)?;
            socket.set_recv_buffer_size(KERNEL_BUFFER_BYTES)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(Self::Tcp(TcpListener::from_std(socket.into())?, Owner::Us))
        };
        bind().map_err(|error| named(&address.to_string(), &error))
    }

    /// Binds a Unix socket with `mode`, and `group` (name or number) if one is given. A dead socket
    /// at `path` is replaced; a live one, or a file that is not a socket, is left alone. A socket
    /// that the service manager passed for `path` is used as it is, with the service manager's mode
    /// and group.
    ///
    /// # Errors
    /// `AddrInUse` if a process accepts connections at `path`; otherwise the operating system's
    /// error, with the path.
    pub fn unix(path: &Path, mode: u32, group: Option<u32>) -> io::Result<Self> {
        bind_unix(path, mode, group).map_err(|error| named(&path.display().to_string(), &error))
    }

    /// The address for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Tcp(listener, _) => {
                listener.local_addr().map_or_else(|_| "tcp".to_owned(), |address| address.to_string())
            }
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }

    /// The TCP address, if it has one.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener, _) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// The owner of the socket.
    pub const fn owner(&self) -> Owner {
        match self {
            Self::Tcp(_, owner) => *owner,
            Self::Unix(_, file) if file.inode.is_none() => Owner::ServiceManager,
            Self::Unix(..) => Owner::Us,
        }
    }

    /// Stops accepting, and passes connections that already wait in the queue to `take`. If the
    /// service manager keeps the socket open, they wait for the next process instead.
    pub fn close(self, take: impl Fn(Accepted)) {
        if self.owner() == Owner::ServiceManager {
            return;
        }
        let taken = match self {
            Self::Tcp(listener, _) => take_waiting(listener.into_std(), |listener| {
                listener.accept().map(|(stream, from)| take(Accepted::Tcp(stream, from)))
            }),
            Self::Unix(listener, _file) => {
                // From here on connecting fails, and no connection slips in after the last accepted
                // one.
                let _it_is_listening = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
                take_waiting(listener.into_std(), |listener| {
                    listener.accept().map(|(stream, _)| take(Accepted::Unix(stream)))
                })
            }
        };
        if let Err(error) = taken {
            tracing::debug!(%error, "accept failed");
        }
    }

    /// Waits until `ready`, at most a second, if the service manager keeps this socket: a client that
    /// connected between two processes waits a moment longer instead of getting 503 from a process
    /// that has just started.
    pub async fn defer_accept(&self, ready: impl Fn() -> bool) {
        if self.owner() != Owner::ServiceManager {
            return;
        }
        let started = tokio::time::Instant::now();
        while !ready() && started.elapsed() < DEFER_MAX {
            tokio::time::sleep(DEFER_POLL).await;
        }
    }
}

/// Accepts until the queue is empty.
fn take_waiting<L>(listener: io::Result<L>, accept: impl Fn(&L) -> io::Result<()>) -> io::Result<()> {
    let listener = listener?;
    loop {
        match accept(&listener) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {what}: {error}"))
}

fn bind_unix(path: &Path, mode: u32, group: Option<u32>) -> io::Result<Listener> {
    if let Some(inherited) = inherited_unix(path)? {
        let file = SocketFile { path: path.to_owned(), inode: None };
        return Ok(Listener::Unix(UnixListener::from_std(inherited)?, file));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    // Two programs that start at once must not both find the path free: the lock's owner decides.
    let _lock = take_lock(&lock_path(path))?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is a file that is not a socket"));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there"));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
    }
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    // Permissions before listen: no client can connect in between.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if let Some(gid) = group {
        std::os::unix::fs::chown(path, None, Some(gid))?;
    }
    socket.listen(BACKLOG)?;
    let file = SocketFile { path: path.to_owned(), inode: Some(inode(path)?) };
    Ok(Listener::Unix(UnixListener::from_std(socket.into())?, file))
}

/// How long another process may hold the lock of a socket: binding takes milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Takes the lock of a socket; logs a wait for another process, and limits it.
fn take_lock(path: &Path) -> io::Result<std::fs::File> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("its lock {}: {error}", path.display()));
    let options = std::fs::File::options().create(true).truncate(false).write(true).mode(0o600).to_owned();
    let lock = options.open(path).map_err(named)?;
    // An earlier version's lock file may be open to other users, who could hold the lock; another
    // user's file is left as it is.
    let _left = lock.set_permissions(std::fs::Permissions::from_mode(0o600));
    let (since, mut logged) = (Instant::now(), false);
    loop {
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) if since.elapsed() < LOCK_WAIT => {
                if !logged {
                    tracing::warn!(lock = %path.display(), "another process holds the lock of the socket; waiting for it");
                    logged = true;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let held = io::Error::new(io::ErrorKind::AddrInUse, "another process holds it");
                return Err(named(held));
            }
            Err(error) => return Err(named(error.into())),
        }
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Parses a mode such as `0660`.
pub fn parse_mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777)
}

/// Parses a group: a number, or a name in /etc/group.
pub fn parse_group(text: &str) -> Option<u32> {
    text.parse().ok().or_else(|| {
        let groups = std::fs::read_to_string("/etc/group").ok()?;
        let line = groups.lines().find(|line| line.split(':').next() == Some(text))?;
        line.split(':').nth(2)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("sidegate-socket-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[tokio::test]
    async fn held_lock_is_waited_for_and_then_an_error() {
        let folder = folder("lock");
        let path = folder.join("a.sock");
        let lock = take_lock(&lock_path(&path)).unwrap();
        let mode = std::fs::metadata(lock_path(&path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "other users cannot hold it");
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || take_lock(&lock_path(&path)).map(drop)
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        drop(lock);
        waiting.join().unwrap().unwrap();
        let _held = take_lock(&lock_path(&path)).unwrap();
        let error = Listener::unix(&path, 0o660, None).unwrap_err().to_string();
        assert!(error.contains("a.sock.lock") && error.contains("another process holds it"), "{error}");
    }

    #[tokio::test]
    async fn live_socket_is_kept_and_dead_one_replaced() {
        let folder = folder("live");
        let path = folder.join("a.sock");
        let first = Listener::unix(&path, 0o660, None).unwrap();
        let error = Listener::unix(&path, 0o660, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(first);
        assert!(!path.exists(), "a clean stop removes the socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a killed process leaves its socket");
        drop(Listener::unix(&path, 0o600, None).unwrap());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn file_that_is_not_a_socket_is_left_alone() {
        let folder = folder("file");
        let path = folder.join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(Listener::unix(&path, 0o660, None).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn socket_of_another_process_is_not_removed() {
        let folder = folder("theirs");
        let path = folder.join("a.sock");
        let ours = Listener::unix(&path, 0o660, None).unwrap();
        std::fs::remove_file(&path).unwrap();
        let theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn modes_and_groups_parse() {
        assert_eq!(parse_mode("0660"), Some(0o660));
        assert_eq!(parse_mode("999"), None);
        assert_eq!(parse_group("root"), Some(0));
        assert_eq!(parse_group("12"), Some(12));
        assert_eq!(parse_group("no-such-group"), None);
    }
}
