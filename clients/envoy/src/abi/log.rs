//! The module's log lines, in Envoy's log under the id `dynamic_modules`.

use std::io::Write;
use std::sync::Once;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::abi;

/// Sends what this crate and the client log to Envoy; Envoy's `--log-level` decides what is shown.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = tracing_subscriber::fmt().with_max_level(Level::INFO).without_time().with_level(false);
        let log = log.with_ansi(false).with_target(false).with_writer(EnvoyLog).finish();
        let _already_set = tracing::subscriber::set_global_default(log);
    });
}

struct EnvoyLog;

/// One log line.
struct Line(Level);

impl<'a> MakeWriter<'a> for EnvoyLog {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line(*metadata.level())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        abi::write_log(self.0, &format!("sidegate: {}", text.trim()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
