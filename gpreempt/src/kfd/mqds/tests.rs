// SPDX-License-Identifier: MIT OR Apache-2.0
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// Prints words as seq_hex_dump does: 8 a line, behind a prefix and the offset.
fn dump(out: &mut String, words: &[u32]) {
    for (line, words) in words.chunks(8).enumerate() {
        let words: Vec<String> = words.iter().map(|word| format!("{word:08x}")).collect();
        let _ = writeln!(out, "    {:08x}: {}", line * 32, words.join(" "));
    }
}

/// A compute descriptor: 512 words, HQD registers from word 128 on.
fn compute_image(doorbell: u32, mqd: u64, wptr: u64) -> Vec<u32> {
    let mut words = vec![0; 512];
    words[0] = 0xc031_0800;
    words[98..106].copy_from_slice(&[0x10, 0x1, 0x30, 0x1, 0x50, 0x1, 0x60, 0x1]);
    words[128] = mqd as u32;
    words[129] = (mqd >> 32) as u32;
    words[130] = 1;
    words[141] = wptr as u32;
    words[142] = (wptr >> 32) as u32;
    words[143] = doorbell << 2 | 0x4000_0000;
    words
}

fn sdma_image(doorbell: u32) -> Vec<u32> {
    let mut words = vec![0; 128];
    words[0] = 0x0406_102a;
    words[22] = doorbell << 2;
    words
}

/// What the driver prints for processes with one compute queue of so many XCCs and one copy queue each.
fn print(processes: &[(u32, String, usize, u32)]) -> String {
    let mut out = String::new();
    for (pid, pasid, images, doorbell) in processes {
        let _ = writeln!(out, "Process {pid} PASID {pasid}:");
        if *images == 0 {
            continue;
        }
        out.push_str("  SDMA queue on device f7bc\n");
        dump(&mut out, &sdma_image(doorbell + 0x200));
        out.push_str("  Compute queue on device f7bc\n");
        for xcc in 0..*images as u64 {
            dump(
                &mut out,
                &compute_image(*doorbell, 0x6b_1000 + xcc * 0x3000, 0x7f31_eafd_e038),
            );
        }
    }
    out
}

#[test]
fn hexadecimal_and_decimal_pasids() {
    let text = print(&[(212, "0x8009".into(), 0, 0), (213, "213".into(), 0, 0)]);
    let got = parse(&text).unwrap();
    assert_eq!(
        got.iter().map(|p| (p.pid.0, p.pasid)).collect::<Vec<_>>(),
        [(212, 0x8009), (213, 213)]
    );
    assert!(got.iter().all(|p| p.queues.is_empty()));
}

#[test]
fn one_image_per_xcc() {
    for images in [1, 4] {
        let got = parse(&print(&[(212, "0x8009".into(), images, 0x1002)])).unwrap();
        let [sdma, compute] = got[0].queues.as_slice() else {
            panic!("two queues")
        };
        assert_eq!(
            (sdma.kind, sdma.images.len(), sdma.doorbell()),
            (MqdKind::Sdma, 1, Some(0x1202))
        );
        assert_eq!(
            (compute.kind, compute.images.len()),
            (MqdKind::Compute, images)
        );
        assert_eq!(
            (compute.gpu_id, compute.doorbell()),
            (GpuId(0xf7bc), Some(0x1002))
        );
        let last = compute.images.last().unwrap();
        assert_eq!(
            last.mqd_address(),
            Some(0x6b_1000 + (images as u64 - 1) * 0x3000)
        );
        assert_eq!(last.wptr_address(), Some(0x7f31_eafd_e038));
        assert_eq!(last.save_ticks(), Some((0x1_0000_0010, 0x1_0000_0030)));
        assert_eq!(last.restore_ticks(), Some((0x1_0000_0050, 0x1_0000_0060)));
    }
}

#[test]
fn a_short_image_has_no_registers() {
    let image = Image::of(&[0; 16]);
    assert_eq!((image.mqd_address(), image.save_ticks()), (None, None));
    let queue = QueueMqd {
        kind: MqdKind::Compute,
        gpu_id: GpuId(1),
        images: vec![image],
    };
    assert_eq!(queue.doorbell(), None);
}

#[test]
fn remarks_of_the_driver_are_no_error() {
    let text =
        "Process 1 PASID 0x1:\n  Bad user queue type 9 on device f7bc\n  DIQ on device f7bc\n";
    let got = parse(text).unwrap();
    assert_eq!(got[0].queues.len(), 1);
    assert_eq!(got[0].queues[0].kind, MqdKind::Diq);
}

#[test]
fn empty_is_no_process_but_nothing_found_is_an_error() {
    assert_eq!(parse(""), Ok(Vec::new()));
    assert_eq!(parse("\n"), Ok(Vec::new()));
    let invented = "Queue ID: 1 (0x1)\n  Doorbell: 0x1000\n";
    assert_eq!(parse(invented).unwrap_err().line, 0);
}

#[test]
fn damage_is_told_by_line() {
    let good = print(&[(212, "0x8009".into(), 1, 0x1002)]);
    let lines: Vec<&str> = good.lines().collect();
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().join("\n");
    assert_eq!(
        parse(&without(5)).unwrap_err().line,
        6,
        "a line of the middle of an image is missing"
    );
    assert_eq!(
        parse(&without(2)).unwrap_err().line,
        3,
        "an image begins in the middle"
    );
    let word = good.replacen("0406102a", "0406102", 1);
    assert!(parse(&word).unwrap_err().to_string().contains("line 3"));
    assert!(parse("Process 1 PASID 0x1:\n  Compute queue on gpu f7bc\n").is_err());
    assert!(parse("Process 1 PASID 0x1:\n    00000000: 00000000\n").is_err());
}

proptest! {
    #[test]
    fn what_the_driver_prints_is_read_back(
        processes in proptest::collection::vec((1u32..5_000_000, any::<bool>(), 0usize..5, 0u32..0x3ff_0000), 0..6)
    ) {
        let printed: Vec<_> = processes
            .iter()
            .map(|(pid, hex, images, doorbell)| {
                let pasid = if *hex { format!("0x{pid:x}") } else { pid.to_string() };
                (*pid, pasid, *images, *doorbell)
            })
            .collect();
        let got = parse(&print(&printed)).unwrap();
        prop_assert_eq!(got.len(), processes.len());
        for (got, (pid, _, images, doorbell)) in got.iter().zip(&processes) {
            prop_assert_eq!((got.pid.0, got.pasid), (*pid, *pid));
            prop_assert_eq!(got.queues.len(), if *images == 0 { 0 } else { 2 });
            if let Some(compute) = got.queues.get(1) {
                prop_assert_eq!((compute.images.len(), compute.doorbell()), (*images, Some(*doorbell)));
            }
        }
    }

    #[test]
    fn any_text_is_survived(text in "(Process [0-9]{1,3} PASID (0x)?[0-9a-f]{1,4}:|  (Compute|SDMA) queue on device [0-9a-f]{1,5}|    [0-9a-f]{8}:( [0-9a-f]{8}){0,9}|.{0,20}\n){0,20}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_cut_is_survived(cut in 0usize..4000) {
        let text = print(&[(212, "0x8009".into(), 4, 0x1002)]);
        let _ = parse(&text[..cut.min(text.len())]);
    }
}
