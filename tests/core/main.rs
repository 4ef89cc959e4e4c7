//! Parts of the core on random input: stored commands there and back, and the key space beside a
//! second model of it.
mod command;
mod model;
mod store;
