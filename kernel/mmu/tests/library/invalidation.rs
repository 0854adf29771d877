// SPDX-License-Identifier: MIT OR Apache-2.0
//! Invalidation: R25, R27-R34. The exact order of effects, and what each operand names.

use lazymmu::{
    AddressSpace, Asid, Backend, Features, Half, Mmu, PAGE_SIZE, PageRange, Prot, SpaceKind,
    TlbFeatures, TlbiOp,
};
use lazymmu_testkit::fake::order::{Named, Role};
use lazymmu_testkit::fake::{
    self, BASE, Choose, Effect, Fake, KINDS, USER, contiguous, count, data, is_leaf, new_mmu,
    new_space, pages, visible,
};

fn features(ttl: bool, range: bool, repeat: bool) -> Features {
    Features {
        tlb: TlbFeatures { ttl, range, repeat },
        ets2: false,
    }
}

fn start_of(kind: SpaceKind) -> u64 {
    kind.half().start() + (3 << 39)
}

fn mapped(mmu: &Mmu<Fake>, kind: SpaceKind, n: u64) -> (AddressSpace<'_, Fake>, PageRange) {
    let mut space = new_space(mmu, kind);
    let range = pages(start_of(kind), n);
    space.map(range, contiguous(1), data(kind)).unwrap();
    mmu.kernel().take_effects();
    (space, range)
}

/// Checks one whole invalidation at the start of `effects`; returns what follows.
fn invalidation(effects: &[Effect], kind: SpaceKind, repeat: bool, operations: usize) -> &[Effect] {
    assert_eq!(
        effects[0],
        Effect::DsbIshst,
        "U2: the stores are complete first"
    );
    let mut rest = &effects[1..];
    let tlbi = |e: &Effect| matches!(e, Effect::Tlbi(..));
    let n = rest.iter().take_while(|e| tlbi(e)).count();
    assert_eq!(n, operations);
    rest = &rest[n..];
    assert_eq!(
        rest[0],
        Effect::DsbIsh,
        "U4: only a full DSB completes a TLBI"
    );
    rest = &rest[1..];
    if repeat {
        assert_eq!(
            rest[..2],
            [Effect::Tlbi(TlbiOp::Vale1is, 0), Effect::DsbIsh],
            "R34"
        );
        rest = &rest[2..];
    }
    if kind == SpaceKind::Kernel {
        assert_eq!(rest[0], Effect::Isb, "U5");
        rest = &rest[1..];
    }
    rest
}

/// Splits off the leading leaf stores.
fn stores(effects: &[Effect], n: usize) -> &[Effect] {
    let (run, rest) = effects.split_at(n);
    assert!(run.iter().all(is_leaf), "{run:?}");
    rest
}

#[test]
fn r27_unmap_clears_completes_invalidates_completes() {
    for kind in KINDS {
        for backend in fake::backends() {
            for repeat in [false, true] {
                let mmu = new_mmu();
                mmu.choose_backend(backend).unwrap();
                mmu.choose_features(features(false, false, repeat));
                let (mut space, range) = mapped(&mmu, kind, 3);
                space.unmap(range).unwrap();
                let effects = visible(mmu.kernel().take_effects());
                let rest = stores(&effects, 3);
                assert_eq!(invalidation(rest, kind, repeat, 3), [], "and nothing more");
            }
        }
    }
}

#[test]
fn r25_unmap_frames_gives_back_after_the_invalidation() {
    for kind in KINDS {
        for repeat in [false, true] {
            let mmu = new_mmu();
            mmu.choose_features(features(true, true, repeat));
            let (mut space, range) = mapped(&mmu, kind, 4);
            let given = |_, frame: lazymmu::Frame| mmu.kernel().note(frame.as_u64() / PAGE_SIZE);
            space.unmap_frames(range, given).unwrap();
            let effects = visible(mmu.kernel().take_effects());
            let rest = stores(&effects, 4);
            let rest = invalidation(rest, kind, repeat, 1);
            assert_eq!(rest[..4], [1, 2, 3, 4].map(Effect::Note));
            assert!(stores(&rest[4..], 4).is_empty());
            fake::destroy(space);
        }
    }
}

#[test]
fn r27_unmap_no_flush_invalidates_when_it_is_told_and_on_drop_at_the_latest() {
    for kind in KINDS {
        let mmu = new_mmu();
        let (mut space, range) = mapped(&mmu, kind, 3);
        let start = range.start().as_u64();
        let page = |i| pages(start + i * PAGE_SIZE, 1);
        let pending = space.unmap_no_invalidate(page(0)).unwrap();
        assert!(stores(&visible(mmu.kernel().take_effects()), 1).is_empty());
        space.invalidate(pending);
        let effects = mmu.kernel().take_effects();
        assert_eq!(invalidation(&effects, kind, false, 1), []);
        let mut pending = space.unmap_no_invalidate(page(1)).unwrap();
        let last = space.unmap_no_invalidate(page(2)).unwrap();
        pending.merge(last).unwrap();
        mmu.kernel().take_effects();
        drop(pending);
        let effects = mmu.kernel().take_effects();
        assert_eq!(
            invalidation(&effects, kind, false, 2),
            [],
            "one flush for both"
        );
        assert!(mmu.kernel().all_invalidated());
    }
}

#[test]
fn r27_pending_flushes_that_do_not_touch_stay_apart() {
    let mmu = new_mmu();
    let (mut space, range) = mapped(&mmu, SpaceKind::Kernel, 4);
    let (mut user, low) = mapped(&mmu, USER, 1);
    let start = range.start().as_u64();
    let page = |i| pages(start + i * PAGE_SIZE, 1);
    let mut pending = space.unmap_no_invalidate(page(0)).unwrap();
    let other = space.unmap_no_invalidate(page(2)).unwrap();
    let other = pending.merge(other).unwrap_err();
    let foreign = user.unmap_no_invalidate(low).unwrap();
    let foreign = pending.merge(foreign).unwrap_err();
    drop((pending, other, foreign));
    assert!(mmu.kernel().all_invalidated());
}

#[test]
fn r27_r29_remap_breaks_completely_before_it_makes() {
    for kind in KINDS {
        for backend in fake::backends() {
            let mmu = new_mmu();
            mmu.choose_backend(backend).unwrap();
            let (mut space, range) = mapped(&mmu, kind, 3);
            let prot = data(kind).with_memory_type(lazymmu::MemoryType::NormalNonCacheable);
            space.remap(range, prot).unwrap();
            let effects = visible(mmu.kernel().take_effects());
            let broken = effects[..3].iter().all(|e| match e {
                Effect::Store { value, .. } => value & 1 == 0,
                _ => false,
            });
            assert!(broken, "{effects:?}");
            let rest = invalidation(&effects[3..], kind, false, 3);
            let pair = [Effect::DsbIshst, Effect::Isb];
            match (kind, backend) {
                (SpaceKind::User(_), _) => assert_eq!(stores(rest, 3), []),
                (_, Backend::Eager) => {
                    assert_eq!(rest.iter().filter(|e| is_leaf(e)).count(), 3);
                    assert_eq!(count(rest, Effect::DsbIshst), 3);
                    assert_eq!(rest[7..], pair);
                }
                _ => assert_eq!(stores(rest, 3), pair),
            }
            fake::destroy(space);
        }
    }
}

#[test]
fn r30_protect_writes_in_place_and_invalidates_once() {
    for kind in KINDS {
        let mmu = new_mmu();
        let (mut space, range) = mapped(&mmu, kind, 600);
        let read_only = match kind {
            SpaceKind::Kernel => Prot::KERNEL_RO,
            SpaceKind::User(_) => Prot::USER_RO,
        };
        space.protect(range, read_only).unwrap();
        let effects = visible(mmu.kernel().take_effects());
        let rest = stores(&effects, 600);
        assert_eq!(invalidation(rest, kind, false, 1), [], "no pair beside it");
        let valid = |e: &Effect| matches!(e, Effect::Store { value, .. } if value & 1 == 1);
        assert!(effects[..600].iter().all(valid), "usable throughout");
    }
}

#[test]
fn r31_map_never_invalidates() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, kind);
        space
            .map(pages(start_of(kind), 1000), contiguous(1), data(kind))
            .unwrap();
        let effects = mmu.kernel().take_effects();
        assert!(
            !effects
                .iter()
                .any(|e| matches!(e, Effect::Tlbi(..) | Effect::DsbIsh))
        );
    }
}

#[test]
fn r32_a_table_is_unlinked_invalidated_at_all_levels_and_then_freed() {
    for kind in KINDS {
        for repeat in [false, true] {
            let mmu = new_mmu();
            mmu.choose_features(features(true, true, repeat));
            let (mut space, range) = mapped(&mmu, kind, 1);
            space.unmap(range).unwrap();
            mmu.kernel().take_effects();
            assert_eq!(space.free_empty_tables(range), Ok(3));
            let effects = visible(mmu.kernel().take_effects());
            let mut unlinked = Vec::new();
            let mut freed = Vec::new();
            let mut walk_ops = 0;
            for effect in &effects {
                match *effect {
                    Effect::Store {
                        role: Role::Link(level),
                        value,
                        ..
                    } => {
                        assert_eq!(value, 0);
                        unlinked.push(level);
                    }
                    Effect::Free(frame) => freed.push(frame),
                    Effect::Tlbi(TlbiOp::Vale1is, 0) if repeat => {}
                    Effect::Tlbi(op, operand) => {
                        let named = Named::decode(op, operand);
                        assert!(!named.leaf_only && named.ttl.is_none(), "{op:?}");
                        walk_ops += 1;
                    }
                    _ => {}
                }
            }
            // Bottom up, and the checker of the fake has seen each in order: unlink,
            // DSB ISHST, TLBI, DSB ISH, free.
            assert_eq!(unlinked, [2, 1, 0]);
            assert_eq!(freed.len(), 3);
            assert!(walk_ops >= 1);
            fake::destroy(space);
        }
    }
}

#[test]
fn r32_a_table_with_an_entry_in_use_stays() {
    let mmu = new_mmu();
    let (mut space, range) = mapped(&mmu, SpaceKind::Kernel, 513);
    let start = range.start().as_u64();
    space.unmap(pages(start, 512)).unwrap();
    assert_eq!(
        space.free_empty_tables(range),
        Ok(1),
        "the first last-level table only"
    );
    assert!(space.query(fake::va(start + 512 * PAGE_SIZE)).is_some());
    space.unmap(pages(start + 512 * PAGE_SIZE, 1)).unwrap();
    assert_eq!(space.free_empty_tables(range), Ok(3));
    assert_eq!(mmu.kernel().live_tables(), 1);
}

/// Decodes every TLBI of an unmap and compares what they name with what was asked.
#[test]
fn r33_operands_name_exactly_the_pages_asid_and_level() {
    for kind in KINDS {
        for (ttl, range) in [(false, false), (true, false), (false, true), (true, true)] {
            // Not 511 pages under Miri: the fake looks at each of them for each TLBI.
            let most = if cfg!(miri) { 33 } else { 511 };
            for n in [1, 2, 3, 16, 33, 64, 65, 511]
                .into_iter()
                .filter(|n| *n <= most)
            {
                let mmu = new_mmu();
                mmu.choose_features(features(ttl, range, false));
                let (mut space, asked) = mapped(&mmu, kind, n);
                space.unmap(asked).unwrap();
                let counts = mmu.kernel().counts();
                assert_eq!(counts.tlbi_requested, n);
                let mut next = asked.start().as_u64() >> 12 & ((1 << 37) - 1);
                for effect in mmu.kernel().take_effects() {
                    let Effect::Tlbi(op, operand) = effect else {
                        continue;
                    };
                    let named = Named::decode(op, operand);
                    let (first, pages) = named.pages.expect("by address");
                    assert_eq!(first, next);
                    next += pages;
                    assert_eq!(named.asid, fake::asid_of(kind));
                    assert!(named.leaf_only);
                    assert_eq!(named.ttl, ttl.then_some(3));
                }
                assert_eq!(next, asked.end() >> 12 & ((1 << 37) - 1));
                if n > 4 && range {
                    assert!(counts.tlbi_saved() > 0);
                }
            }
        }
    }
}

#[test]
fn r33_a_range_too_large_for_single_operations_invalidates_everything_of_its_scope() {
    for kind in KINDS {
        let mmu = new_mmu();
        let (mut space, range) = mapped(&mmu, kind, 512);
        space.unmap(range).unwrap();
        let effects = visible(mmu.kernel().take_effects());
        let op = match kind {
            SpaceKind::Kernel => Effect::Tlbi(TlbiOp::Vmalle1is, 0),
            SpaceKind::User(Asid(n)) => Effect::Tlbi(TlbiOp::Aside1is, u64::from(n) << 48),
        };
        assert_eq!(effects[512..515], [Effect::DsbIshst, op, Effect::DsbIsh]);
    }
}

#[test]
fn r25_destroy_invalidates_before_it_frees() {
    for kind in KINDS {
        for repeat in [false, true] {
            let mmu = new_mmu();
            mmu.choose_features(features(true, true, repeat));
            let (space, _) = mapped(&mmu, kind, 700);
            let before = mmu.kernel().counts();
            // Checks that every table comes back, and none before the end of this.
            let effects = fake::destroy(space);
            let rest = invalidation(&effects, kind, repeat, 1);
            assert!(
                rest.iter().all(|e| matches!(e, Effect::Free(_))),
                "{rest:?}"
            );
            let counts = mmu.kernel().counts() - before;
            assert_eq!(counts.tlbi, 1 + u64::from(repeat));
            assert!(
                counts.tlbi_requested <= 1,
                "no page was asked for: {} count as saved",
                counts.tlbi_saved()
            );
        }
    }
}

#[test]
fn r16_invalidating_everything_pays_what_is_owed() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let section = mmu.lazy().section().unwrap();
    space
        .map(pages(BASE, 1), contiguous(1), Prot::KERNEL)
        .unwrap();
    mmu.kernel().take_effects();
    mmu.invalidate_all(lazymmu::tlbi::Scope::AllAsids);
    let effects = mmu.kernel().take_effects();
    assert_eq!(effects[1], Effect::Tlbi(TlbiOp::Vmalle1is, 0));
    assert_eq!(invalidation(&effects, SpaceKind::Kernel, false, 1), []);
    drop(section);
    assert_eq!(mmu.kernel().take_effects(), []);
}

/// R28: a page that was valid inside one section only needs its invalidation all the same.
#[test]
fn r28_valid_for_a_moment_in_a_section_still_needs_the_invalidation() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let range = pages(BASE, 1);
    let section = mmu.lazy().section().unwrap();
    space.map(range, contiguous(1), Prot::KERNEL).unwrap();
    let pending = space.unmap_no_invalidate(range).unwrap();
    assert!(!mmu.kernel().all_invalidated());
    space.invalidate(pending);
    drop(section);
    assert!(mmu.kernel().all_invalidated());
    assert_eq!(Half::Upper, range.half());
}
