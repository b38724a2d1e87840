//! Every proxy, as a real program with the shipped configuration (docs/proxies.md).

mod faults;
mod identity;
mod load;
mod module;
mod module_faults;
mod module_grpc;
mod module_leaks;
mod module_restarts;
mod nginx;
mod scenario;
mod streams;

use sidegate_tests::proxies::Kind;

macro_rules! for_every_proxy {
    ($($name:ident: $kind:expr),*) => {
        $(mod $name {
            use super::{Kind, faults, load, scenario};

            #[tokio::test(flavor = "multi_thread")]
            async fn scenario() {
                scenario::scenario($kind).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn nothing_gets_through_at_64_connections() {
                load::nothing_gets_through_at_64_connections($kind).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_hanging_verifier_is_503() {
                faults::a_hanging_verifier_is_503($kind).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn large_bodies_and_web_sockets_pass() {
                faults::large_bodies_and_web_sockets_pass($kind).await;
            }
        })*
    };
}

for_every_proxy!(
    envoy_grpc: Kind::EnvoyGrpc,
    envoy_http: Kind::EnvoyHttp,
    envoy_module: Kind::EnvoyModule("1.40.0", 4),
    envoy_module_with_one_worker: Kind::EnvoyModule("1.40.0", 1),
    envoy_1_39_module: Kind::EnvoyModule("1.39.3", 4),
    envoy_1_39_module_with_one_worker: Kind::EnvoyModule("1.39.3", 1),
    envoy_1_38_module: Kind::EnvoyModule("1.38.3", 4),
    envoy_1_38_module_with_one_worker: Kind::EnvoyModule("1.38.3", 1),
    nginx_auth_request: Kind::Nginx,
    caddy: Kind::Caddy,
    haproxy: Kind::Haproxy
);

/// nginx and Envoy over HTTP can only use the status (docs/proxies.md).
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_proof_is_503() {
    for kind in [Kind::Caddy, Kind::Haproxy, Kind::EnvoyGrpc] {
        faults::an_answer_without_proof_is_503(kind).await;
    }
}
