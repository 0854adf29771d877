// SPDX-License-Identifier: MIT OR Apache-2.0
//! The short ways of single entries owe what the long way does, whatever the policy (R35, R36, R16).

use lazymmu::{AddressSpace, BarrierPolicy, Mmu, Owed, PAGE_SIZE, Prot};
use lazymmu_testkit::fake::{
    self, BASE, Choose, Effect, Fake, contiguous, count, frame, leaves, map_page, new_kernel_space,
    new_mmu, pages, part, with_ets2,
};

/// Entries of each way.
const ENTRIES: u64 = 8;

/// Sets the entries from `start` on, with the attributes that follow one another.
type Way = fn(&mut AddressSpace<'_, Fake>, u64, &[Prot]);

const WAYS: [(&str, Way); 3] = [
    ("callback", |space, start, prots| {
        let mut prots = prots.iter().cycle();
        let next = |entry: &mut lazymmu::PteRef<'_, Fake>| {
            let prot = prots.next().expect("a cycle does not end");
            entry.set(frame(9), *prot)
        };
        let entries = pages(start, ENTRIES);
        space.apply_to_page_range(entries, next).expect("unused");
    }),
    ("fast range", |space, start, prots| {
        let mut fast = space
            .fast_pte_range(pages(start, ENTRIES))
            .expect("in one table");
        for (i, prot) in (0..ENTRIES as usize).zip(prots.iter().cycle()) {
            fast.set(i, frame(9), *prot).expect("unused");
        }
    }),
    ("pages one by one", |space, start, prots| {
        for (i, prot) in (0..ENTRIES).zip(prots.iter().cycle()) {
            let page = pages(start + i * PAGE_SIZE, 1);
            space.map(page, contiguous(i), *prot).expect("unused");
        }
    }),
];

fn mmu_with(policy: BarrierPolicy) -> Mmu<Fake> {
    let mmu = new_mmu();
    mmu.choose_features(with_ets2());
    mmu.set_policy(policy).expect("the features allow it");
    mmu
}

/// The library's barriers in `effects`: `DSB ISHST` and `ISB`.
fn pairs(effects: &[Effect]) -> [usize; 2] {
    [Effect::DsbIshst, Effect::Isb].map(|effect| count(effects, effect))
}

/// The barriers of a way in a section, its flush included (a fast range has a section of its own), and those in a pause.
fn executed(policy: BarrierPolicy, way: Way, prots: &[Prot]) -> [[usize; 2]; 2] {
    let mmu = mmu_with(policy);
    let mut space = new_kernel_space(&mmu);
    let lazy = mmu.lazy();
    lazy.enable().expect("depth 0");
    way(&mut space, BASE + PAGE_SIZE, prots);
    lazy.flush();
    let section = mmu.kernel().take_effects();
    assert_eq!(leaves(&section), ENTRIES as usize);
    lazy.pause().expect("no pause yet");
    way(&mut space, BASE + (1 + ENTRIES) * PAGE_SIZE, prots);
    lazy.resume().expect("paused");
    lazy.disable().expect("a section is open");
    let paused = mmu.kernel().take_effects();
    mmu.kernel().check_counters();
    fake::destroy(space);
    [pairs(&section), pairs(&paused)]
}

#[test]
fn r35_data_set_the_short_way_owes_nothing_with_ets2() {
    for (name, way) in WAYS {
        for prots in [&[Prot::KERNEL][..], &[Prot::KERNEL, Prot::KERNEL_RO]] {
            let found = executed(BarrierPolicy::Ets2, way, prots);
            assert_eq!(found, [[0, 0], [0, 0]], "{name}");
        }
    }
}

#[test]
fn r36_text_in_the_middle_of_data_keeps_its_pair_with_ets2() {
    let last = [Prot::KERNEL, Prot::KERNEL, Prot::KERNEL, Prot::KERNEL_ROX];
    let first = [Prot::KERNEL_ROX, Prot::KERNEL, Prot::KERNEL, Prot::KERNEL];
    for (name, way) in WAYS {
        for (prots, texts) in [(last, 2), (first, 2), ([Prot::KERNEL_ROX; 4], 8)] {
            let found = executed(BarrierPolicy::Ets2, way, &prots);
            assert_eq!(found, [[1, 1], [texts; 2]], "{name}");
        }
    }
}

#[test]
fn r15_r16_each_attribute_owes_the_pair_with_the_classic_policy() {
    for (name, way) in WAYS {
        for prots in [
            [Prot::KERNEL; 2],
            [Prot::KERNEL_ROX; 2],
            [Prot::KERNEL, Prot::KERNEL_ROX],
        ] {
            let found = executed(BarrierPolicy::Classic, way, &prots);
            assert_eq!(found, [[1, 1], [ENTRIES as usize; 2]], "{name}");
        }
    }
}

/// The next page of the last page's table owes by the policy of its own moment.
#[test]
fn r35_pages_one_by_one_heed_a_change_of_the_policy() {
    use BarrierPolicy::{Classic, Ets2};
    let mmu = mmu_with(Ets2);
    let mut space = new_kernel_space(&mmu);
    let mut n = 1;
    let mut map = |policy| {
        mmu.set_policy(policy).expect("the features allow it");
        map_page(&mut space, n);
        n += 1;
        pairs(&mmu.kernel().take_effects())
    };
    let found = [Ets2, Ets2, Classic, Classic, Ets2, Ets2, Classic].map(&mut map);
    let (pair, none) = ([1, 1], [0, 0]);
    assert_eq!(found, [none, none, pair, pair, none, none, pair]);
    fake::destroy(space);
}

/// A section, its pause and a switch in between change the state's word, and not what is owed.
#[test]
fn r35_a_state_that_changes_in_the_middle_owes_nothing_with_ets2() {
    let mmu = mmu_with(BarrierPolicy::Ets2);
    let mut space = new_kernel_space(&mmu);
    let lazy = mmu.lazy();
    let mut i = 0;
    space
        .apply_to_page_range(part(1, ENTRIES), |entry| {
            match i {
                1 => lazy.enable().expect("room for one more"),
                2 => lazy.pause().expect("room for one more"),
                4 => lazy.resume().expect("paused"),
                6 => lazy.disable().expect("a section is open"),
                _ => {}
            }
            i += 1;
            entry.set(frame(9), Prot::KERNEL)
        })
        .expect("unused");
    assert_eq!(lazy.state().owed(), Owed::empty());
    assert_eq!(pairs(&mmu.kernel().take_effects()), [0, 0]);
    mmu.kernel().check_counters();
    fake::destroy(space);
}

#[test]
fn pages_one_by_one_take_the_short_way_with_either_policy() {
    for policy in [BarrierPolicy::Classic, BarrierPolicy::Ets2] {
        let mmu = mmu_with(policy);
        let mut space = new_kernel_space(&mmu);
        let walks = [1, 2, 3].map(|n| {
            let before = mmu.kernel().counts().walks;
            map_page(&mut space, n);
            mmu.kernel().counts().walks - before
        });
        assert_eq!(walks, [1, 0, 0], "{policy}");
        fake::destroy(space);
    }
}

/// The table's entries are counted, so that it is known when it is empty.
#[test]
fn pages_one_by_one_are_counted_in_their_table() {
    for policy in [BarrierPolicy::Classic, BarrierPolicy::Ets2] {
        let mmu = mmu_with(policy);
        let mut space = new_kernel_space(&mmu);
        for n in 0..4 {
            map_page(&mut space, n);
        }
        let table = part(0, 4);
        space.unmap(part(0, 2)).expect("mapped");
        assert_eq!(space.free_empty_tables(table), Ok(0), "{policy}");
        space.unmap(part(2, 2)).expect("mapped");
        assert_eq!(space.free_empty_tables(table), Ok(3), "{policy}");
        fake::destroy(space);
    }
}
