//! The application on real servers, without a socket: every reply that a test gets is also held against
//! `/openapi.json`.
#![cfg(test)]

mod accounts;
mod bad_input;
mod client;
mod description;
mod feed;
mod files;
mod gaps;
mod handlers;
mod imports;
mod late;
mod moves;
mod ops;
mod pages;
mod photos;
mod repeated;
mod routes;
