// SPDX-License-Identifier: MIT OR Apache-2.0
//! The library on the fake machine: what each call writes, executes, counts and returns.
//!
//! One binary for all of these modules, because linking takes longer than compiling most of them.

mod announced_costs;
mod announced_costs_random;
mod barriers;
mod batch_invalidations;
mod bottom_halves;
mod contiguous;
mod defer_stores;
mod defer_stores_order;
mod differential;
mod edges;
mod elsewhere;
mod fast_pte_range;
mod fast_pte_range_random;
mod findings;
mod forgotten;
mod gather;
mod groups_change;
mod hints_end;
mod holes;
mod invalidation;
mod lazy_contract;
mod lazy_exit;
mod lazy_guards;
mod lazy_suspend;
mod lazy_switch;
mod locked;
mod multicall;
mod opened_at;
mod out_of_memory;
mod panics;
mod preemption;
mod preemption_point;
mod preserve;
mod reuse;
mod short_ways;
mod space_end;
mod space_errors;
mod space_holder;
mod space_sharing;
mod tasks;
mod tokens;
mod unwinding;
