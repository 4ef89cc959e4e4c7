//! `-cors`: which `Access-Control-Allow-…` headers an answer carries (Fetch standard, CORS
//! protocol).
use super::{ApiSettings, Context};
use crate::codec::http::{Request, Response};

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
        for allowed in &settings.cors {
            if &**allowed == "*" {
                return Cors::All;
            }
        }
        let Some(origin) = request.origin else {
            return Cors::None;
        };
        let place = settings
            .cors
            .iter()
            .position(|allowed| &**allowed == origin);
        place.map_or(Cors::None, Cors::Origin)
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
