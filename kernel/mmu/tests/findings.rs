// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the fuzz targets (`fuzz/`) found, one test each, in the words of the library.

mod fake;

use fake::{Effect, USER, frame, new_mmu, new_space, pages, visible};
use mmu::{Context, Owed, Prot, SpaceError};

/// Found by `operations`, in the fake: it took the `ISB` that is still owed for one that ends
/// the invalidation, and its tally differed from the library's counters.
#[test]
fn r16_an_invalidation_of_one_asid_leaves_the_isb_of_new_tables_owed() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, USER);
    let range = pages(3 << 39, 1);
    let section = mmu.lazy().section().unwrap();
    space
        .apply_to_page_range(range, |entry| {
            entry.set(frame(1), Prot::USER)?;
            Ok::<(), SpaceError>(())
        })
        .unwrap();
    assert_eq!(mmu.kernel().lazy().owed(), Owed::all());
    space.flush_tlb_range(range).unwrap();
    assert_eq!(mmu.kernel().lazy().owed(), Owed::CONTEXT);
    mmu.kernel().take_effects();
    drop(section);
    assert_eq!(visible(mmu.kernel().take_effects()), [Effect::Isb]);
    mmu.kernel().check_counters();
    fake::destroy(space);
}
