// SPDX-License-Identifier: MIT OR Apache-2.0
//! The barriers that a step must execute, predicted from its writes and from the contract.
//!
//! The library's counters say what was executed; this module says what must be. It replays the
//! effects of a step in their order, and tracks for each task what the writes so far owe (R14, and
//! the policy, R35 and R36). It requires:
//!
//! * A pair, or half of one, is executed only if it is owed, and once (R16).
//! * Where nothing is deferred (no active section, an interrupt, a pause), the pair follows the
//!   run, before the step ends (R15, R3). With the strategy `Eager` it follows each single write.
//! * In an active section the pair is executed only by a nested end, a pause or a flush (R16).
//! * After an end, a pause or a flush nothing is owed (R5).
//! * An invalidation is `DSB ISHST`, TLBIs, `DSB ISH`, and an `ISB` iff it is for every ASID (R27).
//!   Its barriers pay debts like others.

use crate::model::trace::{Effect, Event};

/// The barriers that a task, or the writes of a step, owe.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Debt {
    stores: bool,
    context: bool,
}

const NOTHING: Debt = Debt {
    stores: false,
    context: false,
};

/// Whether a step pays debts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pays {
    /// The step must pay everything: an effective end, pause or flush, or a step outside of any
    /// section.
    All,
    /// The step must not pay what a section defers.
    Nothing,
}

/// The configuration that decides how writes are paid for.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Each write is paid for at once, inside and outside of sections.
    pub eager: bool,
    /// Writes of data owe nothing.
    pub ets2: bool,
    /// Each invalidation has a second TLBI and `DSB ISH`.
    pub repeat: bool,
}

/// Replays a step of a task that owed `debt` before it. Returns what the task owes after it.
///
/// # Errors
/// The first broken rule.
pub fn replay(terms: Terms, events: &[Event], debt: Debt, pays: Pays) -> Result<Debt, String> {
    let mut owed = debt;
    let mut due = NOTHING;
    let mut i = 0;
    let effect = |i: usize| events.get(i).map(|event: &Event| event.what);
    while let Some(event) = events.get(i) {
        i += 1;
        match event.what {
            Effect::Listed { text } if text || !terms.ets2 => {
                let deferred = event.active && !terms.eager;
                if terms.eager && due != NOTHING {
                    return Err("R15: a write is not followed by its own pair".into());
                }
                let party = if deferred { &mut owed } else { &mut due };
                *party = Debt {
                    stores: true,
                    context: true,
                };
            }
            Effect::Listed { .. } => {}
            Effect::DsbIshst if matches!(effect(i), Some(Effect::Tlbi { .. })) => {
                let mut all = false;
                while let Some(Effect::Tlbi { all_asids }) = effect(i) {
                    all |= all_asids;
                    i += 1;
                }
                let tail: &[fn(Effect) -> bool] = match terms.repeat {
                    false => &[|e| e == Effect::DsbIsh],
                    true => &[
                        |e| e == Effect::DsbIsh,
                        |e| matches!(e, Effect::Tlbi { .. }),
                        |e| e == Effect::DsbIsh,
                    ],
                };
                for is_next in tail {
                    if !effect(i).is_some_and(is_next) {
                        return Err(format!(
                            "R27, R34: an invalidation goes on with {:?}",
                            effect(i)
                        ));
                    }
                    i += 1;
                }
                (owed.stores, due.stores) = (false, false);
                if all {
                    if effect(i) != Some(Effect::Isb) {
                        return Err("R27: an invalidation of every ASID has no ISB".into());
                    }
                    i += 1;
                    (owed.context, due.context) = (false, false);
                }
            }
            Effect::DsbIshst => {
                pay(&mut due.stores, &mut owed.stores, "DSB ISHST", event, pays)?;
            }
            Effect::Isb => pay(&mut due.context, &mut owed.context, "ISB", event, pays)?,
            // A `DSB ISH` outside of an invalidation is that of the context switch.
            Effect::DsbIsh => owed.stores = false,
            Effect::Tlbi { .. } => return Err("R27: a TLBI without DSB ISHST before it".into()),
        }
    }
    if due != NOTHING {
        return Err(format!("R15: {due:?} is not paid after the writes"));
    }
    if pays == Pays::All && owed != NOTHING {
        return Err(format!("R5, R16: {owed:?} is still owed"));
    }
    Ok(owed)
}

/// Replays half of a pair. It completes everything before it, so it pays what is due at once
/// together with what a section owes. (The last hook of a section runs when the mode is inactive
/// already, R10.)
fn pay(
    due: &mut bool,
    owed: &mut bool,
    what: &str,
    event: &Event,
    pays: Pays,
) -> Result<(), String> {
    if *due {
        (*due, *owed) = (false, false);
        return Ok(());
    }
    if !*owed {
        return Err(format!("R16: {what} is executed and not owed"));
    }
    if pays == Pays::Nothing {
        let where_ = if event.active {
            "in the section"
        } else {
            "early"
        };
        return Err(format!("R16: {what} of a section is paid {where_}"));
    }
    *owed = false;
    Ok(())
}
