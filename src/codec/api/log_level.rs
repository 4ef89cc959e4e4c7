//! `/config/local/log` of etcd 2.x: changes how much this machine logs, until it ends. Start with
//! [`put`].
use super::Routed;
use super::exchange::{Exchange, Handled};
use crate::codec::http::Response;
use serde::Deserialize;

/// The level of the log: lines that are less important are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Errors and warnings.
    Warning,
    /// As without `-v`.
    Info,
    /// As with `-v`.
    Debug,
    /// As with `-vv`.
    Trace,
}

impl LogLevel {
    /// The level with this name in etcd, in any case. `None` if etcd has none.
    fn parse(name: &str) -> Option<LogLevel> {
        match name.to_ascii_uppercase().as_str() {
            "CRITICAL" | "ERROR" => Some(LogLevel::Error),
            "WARNING" => Some(LogLevel::Warning),
            "NOTICE" | "INFO" => Some(LogLevel::Info),
            "DEBUG" => Some(LogLevel::Debug),
            "TRACE" => Some(LogLevel::Trace),
            _ => None,
        }
    }
}

/// The body of a request.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LevelBody {
    level: String,
}

/// `PUT /config/local/log`
pub fn put(exchange: &Exchange) -> Handled {
    let Ok(body) = serde_json::from_slice::<LevelBody>(exchange.request.body) else {
        return Err(exchange.message(400, "Invalid json body"));
    };
    match LogLevel::parse(&body.level) {
        Some(level) => Ok(Routed::SetLogLevel {
            level,
            response: Response::new(204, "", ""),
        }),
        None => {
            let text = format!("Invalid log level {}", body.level);
            Err(exchange.message(400, &text))
        }
    }
}
