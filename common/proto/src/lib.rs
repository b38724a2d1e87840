//! Generated gRPC types: the embedded revocation feed, and Envoy's external authorization trimmed to what is used.
#![allow(missing_docs, clippy::all)] // generated code

pub mod feed {
    tonic::include_proto!("sidegate.feed.v1");
}

pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod r#type {
        pub mod v3 {
            tonic::include_proto!("envoy.r#type.v3");
        }
    }
    pub mod service {
        pub mod auth {
            pub mod v3 {
                tonic::include_proto!("envoy.service.auth.v3");
            }
        }
    }
}
