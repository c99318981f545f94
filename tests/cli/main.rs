//! The command-line tool as people and scripts meet it: the real program, run in a folder of its own.
#![cfg(test)]

mod catalog;
mod configuration;
mod exec;
mod ids;
mod instance;
mod local;
mod migrate;
mod moves;
mod program;
mod status;
mod tx;
