//! The shell in this process: settings from flags, environment and files, and three machines that
//! talk over real sockets.
mod config;
mod damage;
mod example;
mod exports;
mod forcing;
mod liars;
mod links;
mod marks;
