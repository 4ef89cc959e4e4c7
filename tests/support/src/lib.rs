//! What tern's tests share, each thing once: a client that shows every byte of HTTP (`client`), a
//! tern process (`server`), many of them (`fleet`) and the networks between them (`net`), the
//! recorded answers (`recordings`), random numbers (`rng`) and the check of histories (`linear`).
pub mod client;
pub mod fleet;
pub mod linear;
pub mod net;
pub mod recordings;
pub mod rng;
pub mod server;
