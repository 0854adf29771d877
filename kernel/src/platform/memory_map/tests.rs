// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory maps of invented machines, checked page by page.

use proptest::prelude::*;

use super::*;
use crate::platform::devicetree::{
    Console, ConsoleSource, Cpu, InterruptController, Reservation, TimerInterrupts,
};
use crate::text::Text;

const LIMITS: AddressLimits = AddressLimits {
    physical_bits: 44,
    linear_map: 64 << 40,
};

fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::from_bounds(start, end).unwrap()
}

fn machine(memory: &[PhysRange], reservations: &[Reservation]) -> MachineDescription {
    MachineDescription {
        model: Text::new(),
        compatible: Text::new(),
        memory: memory.iter().copied().collect(),
        reservations: reservations.iter().copied().collect(),
        console: None,
        interrupt_controller: InterruptController::GicV2 {
            distributor: range(0x800_0000, 0x801_0000),
            cpu_interface: range(0x801_0000, 0x802_0000),
        },
        timer: TimerInterrupts::default(),
        cpus: ArrayVec::new(),
        psci: None,
        boot_arguments: Text::new(),
        notes: ArrayVec::new(),
    }
}

fn reserved(start: u64, end: u64, mapping: Mapping) -> Reservation {
    Reservation {
        range: range(start, end),
        mapping,
    }
}

/// QEMU virt with 128 MiB, the image at its usual place.
const RAM: u64 = 0x4000_0000;
const RAM_END: u64 = RAM + (128 << 20);

fn boot() -> BootMemory {
    BootMemory {
        image: range(RAM + 0x8_0000, RAM + 0x12_3000),
        device_tree: PhysRange::new(RAM + 0x400_0000, 0x1f00),
    }
}

fn bounds(ranges: &[FrameRange]) -> Vec<(u64, u64)> {
    let bytes = ranges.iter().map(|range| range.bytes());
    bytes.map(|range| (range.start(), range.end())).collect()
}

/// The first usable range whose end does not answer if there is memory in `there` only, and the
/// number of pages that were tested.
fn silent(map: &MemoryMap, there: &[PhysRange]) -> (Option<PhysRange>, usize) {
    let mut asked = 0;
    let found = map.silent(|page| {
        asked += 1;
        assert!(
            map.usable()
                .iter()
                .any(|range| range.bytes().contains(page_at(page)))
        );
        there.iter().any(|range| range.contains(page_at(page)))
    });
    (found, asked)
}

fn page_at(address: u64) -> PhysRange {
    range(address, address + PAGE_SIZE)
}

#[test]
fn memory_that_is_not_there_is_found_by_its_end() {
    let high = range(8 << 32, 9 << 32);
    let map = MemoryMap::new(&machine(&[range(RAM, RAM_END), high], &[]), &boot(), LIMITS).unwrap();
    let all = [range(0, 1 << 40)];
    // One page is tested in each bank.
    assert_eq!(silent(&map, &all), (None, 2));
    for end in [RAM_END - PAGE_SIZE, RAM + 0x500_3000, RAM + 0x400_3000] {
        let there = [range(RAM, end), high];
        assert_eq!(silent(&map, &there).0, Some(range(end, RAM_END)));
    }
    let (found, asked) = silent(&map, &[range(RAM, RAM_END)]);
    assert_eq!(found, Some(high));
    assert!(asked < 2 + 22, "{asked}");
    // No page of the last range answers, so all of it is found.
    let (found, _) = silent(&map, &[range(RAM, RAM + 0x8_1000)]);
    assert_eq!(found, Some(range(RAM + 0x400_2000, RAM_END)));
}

#[test]
fn memory_that_is_not_there_is_reserved_until_none_is_left() {
    let high = range(8 << 32, 9 << 32);
    let mut machine = machine(&[range(RAM, RAM_END), high], &[]);
    let there = [range(RAM, RAM + 0x4f0_0000)];
    let mut rounds = 0;
    let map = loop {
        let map = MemoryMap::new(&machine, &boot(), LIMITS).unwrap();
        match silent(&map, &there).0 {
            None => break map,
            Some(found) => machine.forbid(found).unwrap(),
        }
        rounds += 1;
    };
    assert_eq!(rounds, 2);
    assert_eq!(bounds(map.linear()), [(RAM, RAM + 0x4f0_0000)]);
}

#[test]
fn what_the_loader_put_there_is_not_given_out() {
    let disk = [reserved(
        RAM + 0x500_0800,
        RAM + 0x600_0001,
        Mapping::Allowed,
    )];
    let map = MemoryMap::new(&machine(&[range(RAM, RAM_END)], &disk), &boot(), LIMITS).unwrap();
    let hole = range(RAM + 0x500_0000, RAM + 0x600_1000);
    assert!(
        map.usable()
            .iter()
            .all(|usable| !usable.bytes().overlaps(hole))
    );
    // It stays in the linear map.
    assert_eq!(bounds(map.linear()), [(RAM, RAM_END)]);
}

#[test]
fn cpus_that_wait_where_they_cannot_be_told_are_left_out() {
    let mut machine = machine(&[range(RAM, RAM_END)], &[]);
    let waiting = |mpidr, release_address| Cpu {
        mpidr,
        enable_method: EnableMethod::SpinTable { release_address },
    };
    let psci = Cpu {
        mpidr: 0,
        enable_method: EnableMethod::Psci,
    };
    let cpus = [
        psci,
        waiting(1, RAM + 0x10_0000),
        waiting(2, 0xd8),
        waiting(3, RAM + 0x8_0000 - 8),
        waiting(4, u64::MAX - 7),
    ];
    machine.cpus.extend(cpus);
    machine.leave_out_cpus(|word| boot().image.overlaps(word).then_some("the image lies"));
    assert_eq!(machine.cpus[..], [cpus[0], cpus[2], cpus[3]]);
    let notes: Vec<_> = machine.notes.iter().map(ToString::to_string).collect();
    assert!(
        notes[0].contains("CPU 0x1: cpu-release-addr is 0x40100000, where the image lies:"),
        "{notes:?}"
    );
    assert!(
        notes[1].contains("CPU 0x4") && notes[1].contains("where no memory is"),
        "{notes:?}"
    );
}

#[test]
fn takes_out_image_and_blob() {
    let map = MemoryMap::new(&machine(&[range(RAM, RAM_END)], &[]), &boot(), LIMITS).unwrap();
    assert_eq!(bounds(map.linear()), [(RAM, RAM_END)]);
    assert_eq!(
        bounds(map.usable()),
        [
            (RAM, RAM + 0x8_0000),
            (RAM + 0x12_3000, RAM + 0x400_0000),
            // The blob ends inside its second page.
            (RAM + 0x400_2000, RAM_END),
        ]
    );
    assert_eq!(map.usable_bytes(), (128 << 20) - 0xa_3000 - 0x2000);
    assert!(map.unreachable().is_empty());
    assert_eq!(map.usable()[0].start().as_u64(), RAM);
    assert_eq!(map.usable()[0].frames(), 0x80);
}

#[test]
fn no_map_memory_is_in_neither_list_and_reserved_memory_in_one() {
    let reservations = [
        reserved(RAM + 0x100_0800, RAM + 0x100_0801, Mapping::Forbidden),
        reserved(RAM + 0x200_0000, RAM + 0x200_1000, Mapping::Allowed),
    ];
    let machine = machine(&[range(RAM, RAM_END)], &reservations);
    let map = MemoryMap::new(&machine, &boot(), LIMITS).unwrap();
    assert_eq!(
        bounds(map.linear()),
        [(RAM, RAM + 0x100_0000), (RAM + 0x100_1000, RAM_END)]
    );
    for entry in reservations {
        assert!(
            map.usable()
                .iter()
                .all(|r| !r.bytes().overlaps(entry.range))
        );
    }
}

#[test]
fn partial_pages_of_a_bank_are_left_out() {
    let banks = [
        range(RAM + 1, RAM_END - 1),
        range(RAM_END + 5, RAM_END + 0xfff),
    ];
    let map = MemoryMap::new(&machine(&banks, &[]), &boot(), LIMITS).unwrap();
    assert_eq!(bounds(map.linear()), [(RAM + 0x1000, RAM_END - 0x1000)]);
}

#[test]
fn the_page_of_a_release_word_stays_as_it_is() {
    let mut machine = machine(&[range(0, 128 << 20)], &[]);
    machine.cpus.push(Cpu {
        mpidr: 1,
        enable_method: EnableMethod::SpinTable {
            release_address: 0xe0,
        },
    });
    let boot = BootMemory {
        image: range(0x8_0000, 0x12_0000),
        ..boot()
    };
    let boot = BootMemory {
        device_tree: None,
        ..boot
    };
    let map = MemoryMap::new(&machine, &boot, LIMITS).unwrap();
    assert_eq!(bounds(map.linear()), [(0, 128 << 20)]);
    assert_eq!(bounds(map.usable())[0], (0x1000, 0x8_0000));
}

#[test]
fn frame_0_is_mapped_and_never_handed_out() {
    let low = range(0, 64 << 20);
    let machine = machine(&[low, range(RAM, RAM_END)], &[]);
    let map = MemoryMap::new(&machine, &boot(), LIMITS).unwrap();
    assert_eq!(bounds(map.linear())[0], (0, 64 << 20));
    assert_eq!(bounds(map.usable())[0], (PAGE_SIZE, 64 << 20));
}

#[test]
fn registers_in_memory_are_refused_and_named() {
    let inside = range(RAM + 0x10_0000, RAM + 0x10_1000);
    let outside = range(0x900_0000, 0x900_1000);
    let with = |registers, controller| {
        let mut machine = machine(&[range(RAM, RAM_END)], &[]);
        machine.console = Some(Console {
            registers,
            source: ConsoleSource::StdoutPath,
        });
        machine.interrupt_controller = controller;
        MemoryMap::new(&machine, &boot(), LIMITS).map(|_| ())
    };
    let v2 = |distributor, cpu_interface| InterruptController::GicV2 {
        distributor,
        cpu_interface,
    };
    let v3 = |redistributor| InterruptController::GicV3 {
        distributor: outside,
        redistributors: [redistributor].into_iter().collect(),
        stride: None,
    };
    let refused = |device| {
        Err(MemoryMapError::DeviceInMemory {
            device,
            registers: inside,
            bank: range(RAM, RAM_END),
        })
    };
    assert_eq!(with(outside, v2(outside, outside)), Ok(()));
    assert_eq!(with(inside, v2(outside, outside)), refused("console"));
    let gic = "interrupt controller";
    assert_eq!(with(outside, v2(inside, outside)), refused(gic));
    assert_eq!(with(outside, v2(outside, inside)), refused(gic));
    assert_eq!(with(outside, v3(inside)), refused(gic));
    let message = with(inside, v3(outside)).unwrap_err().to_string();
    assert!(message.contains("correct its `reg`"), "{message}");
}

#[test]
fn too_little_memory_is_an_error_with_both_numbers() {
    let image = 0xa_3000;
    let blob = 0x2000;
    let enough = RAM + MINIMUM_MEMORY + image + blob;
    let at = |end| MemoryMap::new(&machine(&[range(RAM, end)], &[]), &boot(), LIMITS);
    assert!(at(enough).is_ok());
    let error = at(enough - PAGE_SIZE).unwrap_err();
    assert_eq!(
        error,
        MemoryMapError::TooLittle {
            usable: MINIMUM_MEMORY - PAGE_SIZE
        }
    );
    let message = error.to_string();
    assert!(message.starts_with("65532 KiB of memory are usable, the kernel needs 65536 KiB"));
    assert!(message.contains("--memory 128M"), "{message}");
}

#[test]
fn the_kernel_must_lie_in_memory_that_may_be_mapped() {
    let elsewhere = machine(&[range(0x8000_0000, 0x9000_0000)], &[]);
    let image = boot().image;
    let error = MemoryMap::new(&elsewhere, &boot(), LIMITS).unwrap_err();
    assert_eq!(error, MemoryMapError::ImageOutsideMemory { image });
    let forbidden = reserved(image.end() - 1, image.end(), Mapping::Forbidden);
    let machine = machine(&[range(RAM, RAM_END)], &[forbidden]);
    let error = MemoryMap::new(&machine, &boot(), LIMITS).unwrap_err();
    assert_eq!(error, MemoryMapError::ImageOutsideMemory { image });
    // A page is mapped whole or not at all.
    let half = BootMemory {
        image: range(image.start(), image.end() - 0x800),
        ..boot()
    };
    let forbidden = reserved(image.end() - 1, image.end(), Mapping::Forbidden);
    let machine = self::machine(&[range(RAM, RAM_END)], &[forbidden]);
    assert!(MemoryMap::new(&machine, &half, LIMITS).is_err());
    assert!(
        error.to_string().contains("0x40080000..0x40123000"),
        "{error}"
    );
}

#[test]
fn memory_beyond_reach_is_left_out_and_reported() {
    let limits = AddressLimits {
        physical_bits: 32,
        linear_map: 64 << 40,
    };
    let banks = [range(RAM, 1 << 33), range(1 << 40, 1 << 41)];
    let map = MemoryMap::new(&machine(&banks, &[]), &boot(), limits).unwrap();
    assert_eq!(bounds(map.linear()), [(RAM, 1 << 32)]);
    assert_eq!(map.unreachable(), [range(1 << 32, 1 << 33), banks[1]]);

    let limits = AddressLimits {
        physical_bits: 52,
        linear_map: 64 << 40,
    };
    let banks = [range(RAM, RAM_END), range((64 << 40) - PAGE_SIZE, u64::MAX)];
    let map = MemoryMap::new(&machine(&banks, &[]), &boot(), limits).unwrap();
    assert_eq!(bounds(map.linear())[1], ((64 << 40) - PAGE_SIZE, 64 << 40));
    assert_eq!(map.unreachable(), [range(64 << 40, u64::MAX)]);

    // Descriptors hold 48 bits of output address, so a larger PARange does not help.
    let limits = AddressLimits {
        linear_map: u64::MAX,
        ..limits
    };
    let banks = [range(RAM, RAM_END), range((1 << 48) - PAGE_SIZE, 1 << 49)];
    let map = MemoryMap::new(&machine(&banks, &[]), &boot(), limits).unwrap();
    assert_eq!(bounds(map.linear())[1], ((1 << 48) - PAGE_SIZE, 1 << 48));
}

/// The test checks each of these few hundred pages from address 0.
const PAGES: u64 = 400;

fn some_range() -> impl Strategy<Value = PhysRange> {
    (0..PAGES * PAGE_SIZE, 1..40 * PAGE_SIZE)
        .prop_map(|(start, size)| PhysRange::new(start, size).unwrap())
}

/// Sorted, disjoint banks, as the device tree's reader gives them.
fn some_banks() -> impl Strategy<Value = Vec<PhysRange>> {
    proptest::collection::btree_set(0..PAGES * PAGE_SIZE, 2..=2 * MAX_BANKS).prop_map(|cuts| {
        let cuts: Vec<u64> = cuts.into_iter().collect();
        cuts.chunks_exact(2)
            .map(|pair| range(pair[0], pair[1]))
            .collect()
    })
}

fn some_reservations() -> impl Strategy<Value = Vec<Reservation>> {
    let mapping = prop_oneof![Just(Mapping::Allowed), Just(Mapping::Forbidden)];
    let entry = (some_range(), mapping).prop_map(|(range, mapping)| Reservation { range, mapping });
    proptest::collection::vec(entry, 0..=MAX_RESERVATIONS)
}

/// Whether `page` is in each of the two lists, by their definition.
fn expected(page: PhysRange, machine: &MachineDescription, boot: &BootMemory) -> (bool, bool) {
    let ram = machine.memory.iter().any(|bank| bank.contains(page));
    let hit = |entry: &&Reservation| entry.range.overlaps(page);
    let forbidden = |entry: &Reservation| entry.mapping == Mapping::Forbidden;
    let linear = ram && !machine.reservations.iter().filter(hit).any(forbidden);
    let taken = machine.reservations.iter().any(|entry| hit(&entry))
        || boot.image.overlaps(page)
        || page.start() == 0
        || boot.device_tree.is_some_and(|blob| blob.overlaps(page));
    (linear, linear && !taken)
}

fn check_list(list: &[FrameRange]) {
    for pair in list.windows(2) {
        assert!(pair[0].bytes().end() <= pair[1].bytes().start(), "{list:?}");
    }
    for range in list {
        let bytes = range.bytes();
        assert!(bytes.start().is_multiple_of(PAGE_SIZE) && bytes.end().is_multiple_of(PAGE_SIZE));
        assert_eq!(range.start().as_u64(), bytes.start());
    }
}

proptest! {
    #[test]
    fn every_page_is_where_the_definition_says(
        banks in some_banks(),
        reservations in some_reservations(),
        blob in proptest::option::of(some_range()),
    ) {
        // A bank far away makes sure that there is enough memory, and it holds the image. The pages
        // under test are in the other banks.
        let mut banks = banks;
        banks.truncate(MAX_BANKS - 1);
        banks.push(range(RAM, RAM_END));
        let machine = machine(&banks, &reservations);
        let boot = BootMemory { device_tree: blob, ..boot() };
        let map = MemoryMap::new(&machine, &boot, LIMITS).unwrap();
        check_list(map.linear());
        check_list(map.usable());
        for page in 0..PAGES + 50 {
            let page = PhysRange::new(page * PAGE_SIZE, PAGE_SIZE).unwrap();
            let listed = |list: &[FrameRange]| list.iter().any(|range| range.bytes().contains(page));
            prop_assert_eq!(
                (listed(map.linear()), listed(map.usable())),
                expected(page, &machine, &boot)
            );
        }
    }
}
