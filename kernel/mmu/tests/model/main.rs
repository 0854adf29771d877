// SPDX-License-Identifier: MIT OR Apache-2.0
//! The library on the machine model, which tries every outcome that the architecture allows, and under
//! random programs.

mod library;
mod properties;
mod publish;
mod rules;
mod sabotage;
mod scheduler;
mod space_oracle;
mod verdicts;
