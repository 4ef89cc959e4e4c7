//! `-cors`: which `Access-Control-Allow-…` headers an answer carries (Fetch standard, CORS
//! protocol).
use super::{ApiSettings, Context};
use crate::codec::http::{Method, Request, Response};

/// The `Access-Control-Allow-…` headers of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cors {
    /// No headers: the origin is not allowed, or the request has none.
    None,
    /// `-cors *`
    All,
    /// The place of the request's origin in `ApiSettings::cors`.
    Origin(usize),
}

impl Cors {
    /// The headers for the answer to `request`.
    pub fn of(request: &Request, settings: &ApiSettings) -> Cors {
        Cors::of_origin(request.origin, settings)
    }

    /// The headers for the answer to a request of this origin.
    pub fn of_origin(origin: Option<&str>, settings: &ApiSettings) -> Cors {
        for allowed in &settings.cors {
            if &**allowed == "*" {
                return Cors::All;
            }
        }
        let Some(origin) = origin else {
            return Cors::None;
        };
        let place = settings
            .cors
            .iter()
            .position(|allowed| &**allowed == origin);
        place.map_or(Cors::None, Cors::Origin)
    }

    /// Whether the request is a write of a browser page that has no right to it: its origin is
    /// neither this server nor allowed by `-cors`. A browser sends `Origin` with each such request,
    /// and other clients do not.
    pub fn refuses(self, request: &Request) -> bool {
        let is_read = matches!(request.method, Method::Get | Method::Head | Method::Options);
        let Some(origin) = request.origin else {
            return false;
        };
        let host = origin.split_once("://").map(|(_, host)| host);
        let is_own = host.is_some_and(|host| {
            request
                .host
                .is_some_and(|own| own.eq_ignore_ascii_case(host))
        });
        !is_read && !is_own && self == Cors::None
    }

    /// Names and values of the headers.
    pub fn headers<'a>(
        self,
        context: &Context<'a>,
    ) -> impl Iterator<Item = (&'static str, &'a str)> {
        let origin: Option<&str> = match self {
            Cors::None => None,
            Cors::All => Some("*"),
            Cors::Origin(place) => Some(&context.settings.cors[place]),
        };
        let allowed = if context.settings.compat_2 {
            "accept, content-type, authorization"
        } else {
            "accept, content-type"
        };
        origin.into_iter().flat_map(move |origin| {
            [
                (
                    "Access-Control-Allow-Methods",
                    "POST, GET, OPTIONS, PUT, DELETE",
                ),
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Allow-Headers", allowed),
            ]
        })
    }

    /// Adds the headers to a response.
    pub fn add(self, mut response: Response, context: &Context) -> Response {
        for (name, value) in self.headers(context) {
            response = response.with(name, value);
        }
        response
    }
}
