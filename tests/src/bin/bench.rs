//! The command for all benchmarks: `./tests/bench [row…]` runs this program with the names of the
//! rows.
#![forbid(unsafe_code)]

use std::pin::Pin;

use sidegate_tests::bench::row::Row;
use sidegate_tests::bench::{
    bare, check, envoy, feed, grpc, idle, inprocess, login, memory, module, reject, revocation, segment, startup,
    streams,
};

type Rows = fn() -> Pin<Box<dyn Future<Output = Vec<Row>>>>;

/// Every group of rows, by its name.
const GROUPS: &[(&str, Rows)] = &[
    ("check", || Box::pin(check::rows())),
    ("grpc", || Box::pin(grpc::rows())),
    ("envoy", || Box::pin(envoy::rows())),
    ("module", || Box::pin(module::rows())),
    ("streams", || Box::pin(streams::rows())),
    ("revocation", || Box::pin(revocation::rows())),
    ("login", || Box::pin(login::rows())),
    ("feed", || Box::pin(feed::rows())),
    ("memory", || Box::pin(memory::rows())),
    ("reject", || Box::pin(reject::rows())),
    ("idle", || Box::pin(idle::rows())),
    ("inprocess", || Box::pin(inprocess::rows())),
    ("segment", || Box::pin(segment::rows())),
    ("startup", || Box::pin(startup::rows())),
];

/// Rows that take minutes: run only if named.
const LONG: &[(&str, Rows)] = &[("feed10m", || Box::pin(feed::rows_of_ten_million()))];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, socket, workers, says] = arguments.as_slice()
        && flag == "--bare-server"
    {
        let says = bare::Says::named(says).expect("what a bare server says");
        bare::serve(std::path::Path::new(socket), workers.parse().expect("a number"), says);
        return;
    }
    if let [flag, socket, redis] = arguments.as_slice()
        && flag == "--bare-script-server"
    {
        login::serve_script(std::path::Path::new(socket), redis);
        return;
    }
    if arguments == ["--list"] {
        GROUPS.iter().chain(LONG).for_each(|(name, _)| println!("{name}"));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (name, rows) in GROUPS.iter().chain(LONG) {
        let all = arguments.is_empty() && !LONG.iter().any(|(long, _)| long == name);
        if all || arguments.iter().any(|wanted| wanted == name) {
            runtime.block_on(rows()).iter().for_each(Row::print);
        }
    }
}
