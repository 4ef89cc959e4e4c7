//! `/v2/auth`: authentication is off, and cannot be switched on.
//!
//! Clients of etcd 2.x ask whether it is on, and list users and roles. They get the answers of a
//! server without users, whose only role is the built-in `root`. A request that would change users,
//! roles or the switch is refused with 501. Start with [`enabled`].
use super::Routed;
use super::exchange::{Exchange, Handled};
use crate::codec::http::Response;
use crate::codec::http::response::JSON;
use serde::Deserialize;

/// The role that every etcd has, as long as authentication is off.
const ROOT: &str = r#"{"role":"root","permissions":{"kv":{"read":["/*"],"write":["/*"]}}}"#;

const ROOT_FIXED: &str = "auth: Cannot modify role root: is root role.";

/// `GET /v2/auth/enable`
pub fn enabled(_: &Exchange) -> Handled {
    json("{\"enabled\":false}\n")
}

/// `DELETE /v2/auth/enable`: it is off already.
pub fn disable(exchange: &Exchange) -> Handled {
    Err(exchange.message(409, "auth: already disabled"))
}

/// `PUT /v2/auth/enable`: there is no root user, and none can be made.
pub fn enable(exchange: &Exchange) -> Handled {
    Err(exchange.message(409, "auth: No root user available, please create one"))
}

/// `GET /v2/auth/users`
pub fn users(_: &Exchange) -> Handled {
    json("{\"users\":null}\n")
}

/// `GET /v2/auth/users/{name}`
pub fn user(exchange: &Exchange) -> Handled {
    let text = format!("auth: User {} does not exist.", exchange.rest);
    Err(exchange.message(404, &text))
}

/// `GET /v2/auth/roles`
pub fn roles(_: &Exchange) -> Handled {
    json(&format!("{{\"roles\":[{ROOT}]}}\n"))
}

/// `GET /v2/auth/roles/{name}`
pub fn role(exchange: &Exchange) -> Handled {
    if exchange.rest == "root" {
        return json(&format!("{ROOT}\n"));
    }
    let text = format!("auth: Role {} does not exist.", exchange.rest);
    Err(exchange.message(404, &text))
}

/// `PUT /v2/auth/users/{name}`: refused for its own faults as by etcd, else with 501.
pub fn put_user(exchange: &Exchange) -> Handled {
    let Ok(body) = serde_json::from_slice::<UserBody>(exchange.request.body) else {
        return Err(exchange.message(400, "Invalid JSON in request body."));
    };
    if !body.user.is_empty() && body.user != exchange.rest {
        let text = "User JSON name does not match the name in the URL";
        return Err(exchange.message(400, text));
    }
    if body.password.is_empty() && body.grant.is_none() && body.revoke.is_none() {
        let text = format!(
            "auth: Cannot create user {} with an empty password",
            exchange.rest
        );
        return Err(exchange.message(400, &text));
    }
    refuse(exchange)
}

/// The body of a request that makes or changes a user.
#[derive(Deserialize)]
struct UserBody {
    #[serde(default)]
    user: String,
    #[serde(default)]
    password: String,
    grant: Option<Vec<String>>,
    revoke: Option<Vec<String>>,
}

/// `DELETE /v2/auth/users/{name}`: there are no users.
pub fn delete_user(exchange: &Exchange) -> Handled {
    let text = format!("auth: User {} does not exist", exchange.rest);
    Err(exchange.message(404, &text))
}

/// `PUT /v2/auth/roles/{name}`
pub fn put_role(exchange: &Exchange) -> Handled {
    if exchange.rest == "root" {
        return Err(exchange.message(403, ROOT_FIXED));
    }
    refuse(exchange)
}

/// `DELETE /v2/auth/roles/{name}`: there is no role but `root`.
pub fn delete_role(exchange: &Exchange) -> Handled {
    if exchange.rest == "root" {
        return Err(exchange.message(403, ROOT_FIXED));
    }
    let text = format!("auth: Role {} doesn't exist.", exchange.rest);
    Err(exchange.message(404, &text))
}

/// The refusal of a change that etcd would carry out: there is no authentication to switch on, and
/// there are no users and roles to make.
pub fn refuse(exchange: &Exchange) -> Handled {
    let text = "tern has no authentication of clients: restrict the client port by -ca-file, which \
                demands a certificate, or by the network";
    Err(exchange.message(501, text))
}

fn json(text: &str) -> Handled {
    Ok(Routed::Answer(Response::new(200, JSON, text)))
}
