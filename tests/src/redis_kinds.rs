//! Redis as in production: a master with Sentinels, a Cluster of three masters, TLS under a private
//! CA.

use std::path::PathBuf;
use std::process::Command;

use crate::program::{Program, free_port};
use crate::scratch::Scratch;
use crate::wait::eventually;

/// A private certificate authority, and a certificate for 127.0.0.1 under it.
#[derive(Debug)]
pub struct Authority {
    folder: Scratch,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { folder: Scratch::new() };
        let ca = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        authority
            .openssl(&[&["req"], &ca[..], &["-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem"]].concat());
        let request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=redis"];
        authority.openssl(&[&request[..], &["-keyout", "redis.key", "-out", "redis.csr"]].concat());
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n";
        std::fs::write(authority.folder.file("redis.ext"), names).expect("our own folder");
        let sign = ["x509", "-req", "-in", "redis.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        authority.openssl(&[&sign[..], &["-days", "2", "-extfile", "redis.ext", "-out", "redis.pem"]].concat());
        authority
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(self.folder.path()).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The CA's certificate, for `SSL_CERT_FILE`.
    pub fn ca(&self) -> PathBuf {
        self.folder.file("ca.pem")
    }

    fn file(&self, name: &str) -> String {
        self.folder.file(name).to_str().expect("UTF-8").to_owned()
    }

    /// The TLS options of redis-server and `redis-cli`.
    fn server_options(&self) -> Vec<String> {
        let files =
            [("--tls-cert-file", "redis.pem"), ("--tls-key-file", "redis.key"), ("--tls-ca-cert-file", "ca.pem")];
        let mut options: Vec<_> = files.iter().flat_map(|(name, file)| [(*name).to_owned(), self.file(file)]).collect();
        options.extend(["--tls-auth-clients".to_owned(), "no".to_owned()]);
        options
    }
}

/// A group of redis-servers.
#[derive(Debug)]
pub struct Servers {
    programs: Vec<Program>,
    ports: Vec<u16>,
    commands: Vec<Vec<String>>,
    folder: Scratch,
}

impl Servers {
    const fn none(folder: Scratch) -> Self {
        Self { programs: Vec::new(), ports: Vec::new(), commands: Vec::new(), folder }
    }

    /// Starts one more redis-server on a free port in its own folder, with `options`; over TLS
    /// under `authority`.
    fn add(&mut self, authority: Option<&Authority>, options: &[&str]) -> u16 {
        let port = free_port();
        let name = format!("redis-{port}");
        let home = self.folder.file(&name);
        std::fs::create_dir(&home).expect("our own folder");
        let (plain, secure) = match authority {
            None => (port.to_string(), None),
            Some(authority) => ("0".to_owned(), Some(authority.server_options())),
        };
        let mut command = vec!["--port", &plain, "--bind", "127.0.0.1", "--save", "", "--protected-mode", "no"];
        command.extend(["--appendonly", "yes", "--appendfsync", "always", "--dir", home.to_str().expect("UTF-8")]);
        let mut command: Vec<_> = command.into_iter().map(str::to_owned).collect();
        if let Some(secure) = secure {
            command.extend(["--tls-port".to_owned(), port.to_string()]);
            command.extend(secure);
        }
        command.extend(options.iter().map(|option| (*option).to_owned()));
        self.programs.push(self.launch(port, &command));
        self.ports.push(port);
        self.commands.push(command);
        port
    }

    fn launch(&self, port: u16, arguments: &[String]) -> Program {
        let mut command = Command::new("redis-server");
        command.args(arguments);
        let name = format!("redis-{port}");
        Program::start(&name, command, &self.folder.file(&format!("{name}.log")))
    }

    fn index(&self, port: u16) -> usize {
        self.ports.iter().position(|one| *one == port).expect("one of these servers")
    }

    /// kill -9 of the server on this port.
    pub fn kill(&mut self, port: u16) {
        let index = self.index(port);
        self.programs[index].kill();
    }

    /// Starts the server again with its data.
    pub fn restart(&mut self, port: u16) {
        let index = self.index(port);
        self.programs[index] = self.launch(port, &self.commands[index].clone());
    }

    /// The reply of the server on this port, as `redis-cli` prints it.
    ///
    /// # Panics
    /// The reply is an error.
    pub fn ask(port: u16, command: &[&str]) -> String {
        Self::cli(port, None, command).unwrap_or_else(|| panic!("{port}: {command:?} failed")).trim().to_owned()
    }

    /// Waits until `INFO` of the server on this port has this line.
    pub async fn until_info(&self, port: u16, line: &str) {
        self.until(line, port, None, &["INFO", "replication"], line).await;
    }

    /// The output of `redis-cli`; `None` if it fails.
    fn cli(port: u16, authority: Option<&Authority>, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port.to_string()]);
        if let Some(authority) = authority {
            command.args(["--tls", "--cacert", &authority.file("ca.pem")]);
        }
        let output = command.args(arguments).output().expect("redis-cli is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success() && !text.contains("ERR")).then_some(text)
    }

    async fn until(&self, what: &str, port: u16, authority: Option<&Authority>, ask: &[&str], answer: &str) {
        eventually(what, || async { Self::cli(port, authority, ask).filter(|text| text.contains(answer)) }).await;
    }

    /// kill -9 of the first server: the master, if there are Sentinels.
    pub fn kill_first(&mut self) {
        self.programs[0].kill();
    }

    pub const fn folder(&self) -> &Scratch {
        &self.folder
    }
}

/// One server over TLS, and its URL: `rediss://…`.
pub async fn over_tls(authority: &Authority) -> (Servers, String) {
    let mut servers = Servers::none(Scratch::new());
    let port = servers.add(Some(authority), &[]);
    servers.until("Redis over TLS", port, Some(authority), &["PING"], "PONG").await;
    let url = format!("rediss://127.0.0.1:{port}/");
    (servers, url)
}

/// A Cluster of three masters, over TLS if there is an `authority`. The URL names all three.
pub async fn cluster(authority: Option<&Authority>) -> (Servers, String) {
    let mut servers = Servers::none(Scratch::new());
    let secure: &[&str] = if authority.is_some() { &["--tls-cluster", "yes"] } else { &[] };
    for _ in 0..3 {
        // The port between nodes is the client port + 10000, which must be valid.
        let bus = free_port().to_string();
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
        servers.add(authority, &[&options[..], secure].concat());
    }
    for port in servers.ports.clone() {
        servers.until("a node", port, authority, &["PING"], "PONG").await;
    }
    let nodes: Vec<_> = servers.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut create: Vec<_> = ["--cluster", "create"].into();
    create.extend(nodes.iter().map(String::as_str));
    create.push("--cluster-yes");
    let first = servers.ports[0];
    eventually("the Cluster to be created", || async { Servers::cli(first, authority, &create) }).await;
    for port in servers.ports.clone() {
        servers.until("the Cluster", port, authority, &["CLUSTER", "INFO"], "cluster_state:ok").await;
    }
    let scheme = if authority.is_some() { "rediss+cluster" } else { "redis+cluster" };
    let url = format!("{scheme}://{}", nodes.join(","));
    (servers, url)
}

/// A Cluster of three masters, in which the master of `key` has a replica. Returns the ports of
/// that master and replica.
pub async fn cluster_with_replica(key: &str) -> (Servers, u16, u16) {
    let (mut servers, _) = cluster(None).await;
    let slot = Servers::ask(servers.ports[0], &["CLUSTER", "KEYSLOT", key]);
    let slots = 16_384 / 3 + 1;
    // redis-cli gives each master a third of the slots, in order.
    let master = servers.ports[slot.parse::<usize>().expect("a slot") / slots];
    let id = Servers::ask(master, &["CLUSTER", "MYID"]);
    let bus = free_port().to_string();
    let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
    let replica = servers.add(None, &[&options[..], &["--repl-diskless-sync-delay", "0"]].concat());
    servers.until("a node", replica, None, &["PING"], "PONG").await;
    for port in servers.ports.clone() {
        let _met = Servers::cli(port, None, &["CLUSTER", "MEET", "127.0.0.1", &replica.to_string(), &bus]);
    }
    servers.until("the replica to know its master", replica, None, &["CLUSTER", "NODES"], &id).await;
    eventually("the replica to have its role", || async {
        Servers::cli(replica, None, &["CLUSTER", "REPLICATE", &id])
    })
    .await;
    servers.until_info(replica, "master_link_status:up").await;
    for port in servers.ports.clone() {
        let slave = format!("127.0.0.1:{replica}@{bus} ");
        eventually("every node to know the replica", || async {
            let nodes = Servers::cli(port, None, &["CLUSTER", "NODES"])?;
            nodes.lines().any(|line| line.contains(&slave) && line.contains("slave")).then_some(())
        })
        .await;
    }
    (servers, master, replica)
}

/// A server and a Sentinel with different passwords. The URL names the Sentinel and contains the
/// server's password.
pub async fn behind_a_guarded_sentinel(server_password: &str, sentinel_password: &str) -> (Servers, String) {
    let mut servers = Servers::none(Scratch::new());
    let master = servers.add(None, &["--requirepass", server_password]);
    let login = |password| vec!["-a", password, "--no-auth-warning", "PING"];
    servers.until("the master", master, None, &login(server_password), "PONG").await;
    let port = free_port();
    let file = servers.folder.file("sentinel.conf");
    let config = format!(
        "port {port}\nbind 127.0.0.1\nrequirepass {sentinel_password}\nsentinel monitor main 127.0.0.1 {master} 1\n\
         sentinel auth-pass main {server_password}\n"
    );
    std::fs::write(&file, config).expect("our own folder");
    let mut command = Command::new("redis-server");
    command.arg(&file).arg("--sentinel").current_dir(servers.folder.path());
    servers.programs.push(Program::start("sentinel", command, &servers.folder.file("sentinel.log")));
    servers.until("the Sentinel", port, None, &login(sentinel_password), "PONG").await;
    let url = format!("redis+sentinel://:{server_password}@127.0.0.1:{port}/main");
    (servers, url)
}

/// A master, a replica, and three Sentinels that fail over after a second. The URL names the
/// Sentinels.
pub async fn behind_sentinels() -> (Servers, String) {
    let mut servers = Servers::none(Scratch::new());
    let master = servers.add(None, &[]);
    servers.until("the master", master, None, &["PING"], "PONG").await;
    servers.add(None, &["--replicaof", "127.0.0.1", &master.to_string(), "--repl-diskless-sync-delay", "0"]);
    servers.until("the replica", master, None, &["INFO", "replication"], "state=online").await;
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        let port = free_port();
        let file = servers.folder.file(&format!("sentinel-{port}.conf"));
        let config = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
        );
        std::fs::write(&file, config).expect("our own folder");
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").current_dir(servers.folder.path());
        let log = servers.folder.file(&format!("sentinel-{port}.log"));
        servers.programs.push(Program::start("sentinel", command, &log));
        sentinels.push(port);
    }
    for port in &sentinels {
        let ask = ["SENTINEL", "CKQUORUM", "main"];
        servers.until("the Sentinels to know each other", *port, None, &ask, "OK 3 usable Sentinels").await;
        servers.until("and the replica", *port, None, &["SENTINEL", "REPLICAS", "main"], "flags").await;
    }
    let hosts: Vec<_> = sentinels.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let url = format!("redis+sentinel://{}/main", hosts.join(","));
    (servers, url)
}
