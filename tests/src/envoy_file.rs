//! The shipped configuration of Envoy with the module, and what tests add to it.

use std::net::SocketAddr;
use std::path::Path;

use crate::tls::Certificate;

/// The line of the only route.
pub const ROUTE: &str = "                        - match: { prefix: / }\n";
const LISTENER: &str = "    - name: web\n";
const CLUSTERS: &str = "  clusters:\n";

/// The file as it is shipped.
pub fn shipped() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/envoy/module.yaml"))
        .expect("a shipped file")
}

/// The shipped file with other members in the module's configuration.
pub fn with_members(members: &str) -> String {
    let text = shipped();
    let at = text.find("                          socket: VERIFIER_SOCKET").expect("the members");
    let end = text[at..].find("                  - name: envoy.filters.http.router").expect("the router") + at;
    format!("{}                          {members}\n{}", &text[..at], &text[end..])
}

/// With Envoy's admin listener on `port`.
pub fn with_admin(text: &str, port: u16) -> String {
    format!("admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}\n{text}")
}

/// The listener once more, on `port` with TLS: HTTP/2 and HTTP/1.1 by ALPN.
pub fn with_tls(text: &str, folder: &Path, port: u16) -> String {
    let Certificate { key, chain } = Certificate::make(folder);
    let socket = format!(
        "        - transport_socket:\n            name: tls\n            typed_config:\n              \
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n              \
         common_tls_context:\n                alpn_protocols: [h2, http/1.1]\n                tls_certificates:\n                  \
         - {{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }} }}\n          filters:\n",
        chain.display(),
        key.display()
    );
    let (before, listener) = text.split_once(LISTENER).expect("a listener");
    let (listener, clusters) = listener.split_once(CLUSTERS).expect("clusters");
    let second = listener.replace("ENVOY_PORT", &port.to_string()).replace("        - filters:\n", &socket);
    assert!(second.contains("tls_certificates"), "{second}");
    format!("{before}{LISTENER}{listener}    - name: web_tls\n{second}{CLUSTERS}{clusters}")
}

/// The same without the module.
pub fn without_module(text: &str) -> String {
    let (before, rest) = text.split_once("                  # Removes what clients say").expect("the module");
    let at = rest.find("                  - name: envoy.filters.http.router").expect("the router");
    format!("{before}{}", &rest[at..])
}

/// The file split in two: one that makes Envoy watch `listeners`, and what belongs there.
pub fn split(text: &str, listeners: &Path) -> (String, String) {
    let (_, rest) = text.split_once(LISTENER).expect("a listener");
    let (listener, clusters) = rest.split_once(CLUSTERS).expect("clusters");
    let watching = format!(
        "node: {{ id: test, cluster: test }}\ndynamic_resources:\n  lds_config: {{ path_config_source: {{ path: {} }} }}\n\
         static_resources:\n{CLUSTERS}{clusters}",
        listeners.display()
    );
    let kind = "    - \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n      name: web\n";
    (watching, format!("resources:\n{kind}{listener}"))
}

/// Requests of gRPC go to a server of gRPC.
pub fn with_grpc(text: &str, server: SocketAddr) -> String {
    let indent = " ".repeat(24);
    let route = format!(
        "{indent}- match: {{ prefix: /, grpc: {{}} }}\n{indent}  route: {{ cluster: grpc, timeout: 0s }}\n{ROUTE}"
    );
    assert!(text.contains(ROUTE));
    let cluster = format!(
        "{CLUSTERS}    - name: grpc\n      connect_timeout: 1s\n      typed_extension_protocol_options:\n        \
         envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n          \
         explicit_http_config: {{ http2_protocol_options: {{}} }}\n      load_assignment:\n        cluster_name: grpc\n        \
         endpoints:\n          - lb_endpoints:\n              \
         - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }}\n",
        server.port()
    );
    text.replace(ROUTE, &route).replace(CLUSTERS, &cluster)
}
