//! A real PgBouncer in front of a real Postgres.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::postgres::{Postgres, as_other_user};
use crate::program::{Program, free_port};
use crate::scratch::Scratch;
use crate::wait::eventually;

/// A private PgBouncer in transaction mode, with its defaults otherwise.
#[derive(Debug)]
pub struct PgBouncer {
    _program: Program,
    port: u16,
    _folder: Scratch,
}

impl PgBouncer {
    /// Starts a PgBouncer with `connections` to the server, shared by all clients.
    pub async fn start(postgres: &Postgres, connections: u16) -> Self {
        let (folder, port) = (Scratch::new(), free_port());
        let (config, users) = (folder.file("pgbouncer.ini"), folder.file("users.txt"));
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
             auth_file = {}\npool_mode = transaction\ndefault_pool_size = {connections}\n",
            postgres.port(),
            users.display()
        );
        std::fs::write(&config, text).expect("our own folder");
        std::fs::write(&users, "\"postgres\" \"\"\n").expect("our own folder");
        for path in [folder.path(), &config, &users] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own folder");
        }
        // PgBouncer refuses to run as root, like Postgres.
        let mut command = as_other_user(Path::new("pgbouncer"));
        command.arg(&config);
        let program = Program::start("pgbouncer", command, &folder.file("pgbouncer.log"));
        let bouncer = Self { _program: program, port, _folder: folder };
        eventually("PgBouncer to listen", || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok() })
            .await;
        bouncer
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}
