//! A web application with a public and two protected routes.
//!
//! `VERIFIER_SOCKET=... ATTACH_SOCKET=... LISTEN=127.0.0.1:3000 cargo run -p sidegate-client --example axum_app`

use axum::Router;
use axum::routing::get;
use sidegate_client::tower::RequireToken;
use sidegate_client::{Sidegate, Verified};

/// The argument protects the route.
async fn hello(token: Verified) -> String {
    format!("hello {}\n", token.subject())
}

/// The layer requires the scope and passes the token on.
async fn reports(token: Verified) -> String {
    format!("reports for {}, who may: {}\n", token.subject(), token.scope())
}

fn app(sidegate: Sidegate) -> Router {
    let managers = RequireToken::new(sidegate.clone()).scopes(["reports:read"]);
    Router::new()
        .route("/reports", get(reports).route_layer(managers))
        .route("/hello", get(hello))
        .route("/", get(|| async { "open to everyone\n" }))
        .with_state(sidegate)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app(Sidegate::connect())).await
}
