// SPDX-License-Identifier: MIT OR Apache-2.0
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// Prints registers as seq_reg_dump does: 8 values a line, a new line where addresses have a gap.
fn dump(out: &mut String, registers: &[(u32, u32)]) {
    let mut left = 0;
    for (at, (address, value)) in registers.iter().enumerate() {
        let gap = at > 0 && registers[at - 1].0 + 4 != *address;
        if left == 0 || gap {
            let newline = if at > 0 { "\n" } else { "" };
            let _ = write!(out, "{newline}    {address:08x}: {value:08x}");
            left = 7;
        } else {
            let _ = write!(out, " {value:08x}");
            left -= 1;
        }
    }
    out.push('\n');
}

fn compute(xcc: u32, mqd: u64, active: bool, doorbell: u32, count: usize) -> Vec<(u32, u32)> {
    let mut values = vec![0; 56];
    values[0] = mqd as u32;
    values[1] = (mqd >> 32) as u32;
    values[2] = u32::from(active);
    // VMID, and that of indirect buffers.
    values[3] = 0x404;
    values[13] = 0x1000;
    values[14] = 0x7f31;
    values[15] = doorbell << 2 | 0x4000_0000;
    let base = 0xc914 + xcc * 0x8_0000;
    let mut registers: Vec<(u32, u32)> = (0..56)
        .map(|at| (base + at * 4, values[at as usize]))
        .collect();
    // Some local patches print one more register, out of order.
    registers.extend((56..count).map(|_| (base + 8, 1)));
    registers
}

/// Registers of a copy queue slot, with the gaps that the hardware's map has.
fn sdma(active: bool, doorbell: u32) -> Vec<(u32, u32)> {
    let base = 0x5520;
    let groups = [(0x0, 19), (0xa0, 6), (0xbc, 7), (0x100, 12)];
    let addresses = groups
        .iter()
        .flat_map(|(from, n)| (0..*n).map(move |at| base + from + at * 4));
    addresses
        .map(|address| match address - base {
            0 => (address, if active { 0x0406_102b } else { 0x0406_002b }),
            0xac => (address, doorbell << 2),
            _ => (address, 0),
        })
        .collect()
}

/// A node of so many XCCs with two compute slots each, the first in use, and one copy slot.
fn print(node: u32, xccs: u32, registers: usize) -> String {
    let mut out = format!("Node {node}, gpu_id f7bc:\n");
    for xcc in 0..xccs {
        let _ = writeln!(out, "   Inst {xcc}, HIQ on MEC 2 Pipe 0 Queue 0");
        dump(&mut out, &compute(xcc, 0x6e_3000, true, 0xe, 56));
        for queue in 0..2 {
            let _ = writeln!(out, " Inst {xcc},  CP Pipe 1, Queue {}", queue + 2);
            // The second was used before: everything but ACTIVE is left.
            let mqd = 0x17b_a000 + u64::from(xcc) * 0x3000;
            dump(
                &mut out,
                &compute(xcc, mqd, queue == 0, 0x1008 + queue, registers),
            );
        }
    }
    out.push_str("  SDMA Engine 0, RLC 5\n");
    dump(&mut out, &sdma(true, 0x1200));
    out.push_str("  SDMA Engine 0, RLC 6\n");
    dump(&mut out, &sdma(false, 0));
    out
}

#[test]
fn slots_of_four_xccs() {
    for registers in [56, 57] {
        let got = parse(&print(2, 4, registers)).unwrap();
        let node = &got[0];
        assert_eq!(
            (node.node, node.gpu_id, node.slots.len()),
            (2, GpuId(0xf7bc), 4 * 3 + 2)
        );
        for xcc in 0..4 {
            assert_eq!(
                node.compute_slots(xcc),
                (1, 2),
                "stale slots are not in use"
            );
        }
        let slot = &node.slots[4];
        assert_eq!(
            (slot.xcc, slot.kind),
            (1, SlotKind::Compute { pipe: 1, queue: 2 })
        );
        assert_eq!(slot.registers.len(), registers);
        assert_eq!(
            (slot.mqd_address(), slot.vmid(), slot.doorbell()),
            (0x17b_d000, 4, Some(0x1008))
        );
        assert_eq!(slot.wptr_address(), 0x7f31_0000_1000);
        assert_eq!(
            node.slots[0].kind,
            SlotKind::Hiq {
                mec: 2,
                pipe: 0,
                queue: 0
            }
        );
    }
}

#[test]
fn copy_slots_have_gaps_between_registers() {
    let got = parse(&print(2, 1, 56)).unwrap();
    let [.., used, idle] = got[0].slots.as_slice() else {
        panic!("two copy slots")
    };
    assert_eq!(used.kind, SlotKind::Sdma { engine: 0, rlc: 5 });
    assert_eq!((used.is_active(), used.doorbell()), (true, Some(0x1200)));
    assert_eq!(
        (idle.is_active(), idle.mqd_address(), idle.vmid()),
        (false, 0, 0)
    );
}

#[test]
fn drivers_before_multi_xcc_parts_print_no_instance() {
    let text = print(2, 1, 56)
        .replace("   Inst 0, HIQ", "  HIQ")
        .replace(" Inst 0,  CP", "  CP");
    assert_eq!(parse(&text), parse(&print(2, 1, 56)));
}

#[test]
fn a_stopped_device_has_no_slots() {
    let got = parse(
        "Node 2, gpu_id f7bc:\n Device is stopped\nNode 3, gpu_id f05b:\n Device is stopped\n",
    )
    .unwrap();
    assert!(got.iter().all(|node| node.stopped && node.slots.is_empty()));
    assert_eq!(got.len(), 2);
}

#[test]
fn what_is_no_dump_is_an_error() {
    assert_eq!(parse(""), Ok(Vec::new()));
    assert_eq!(parse("CP_HQD_VMID = 8\n").unwrap_err().line, 0);
    assert!(
        parse("Node 2, gpu_id f7bc:\n").is_err(),
        "a node without slots"
    );
    assert!(parse("Node 2, gpu_id f7bc:\nNode 3, gpu_id f05b:\n Device is stopped\n").is_err());
    assert!(
        parse("Node 2, gpu_id f7bc:\n Inst 0,  CP Pipe 0, Queue 2\n    0000c914: 00000000\n")
            .is_err()
    );
    assert!(parse("Node 2, gpu_id f7bc:\n    0000c914: 00000000\n").is_err());
    let text = print(2, 1, 56).replacen("CP Pipe 1", "CP Tube 1", 1);
    assert!(parse(&text).unwrap_err().line > 0);
}

proptest! {
    #[test]
    fn any_number_of_nodes_and_xccs(nodes in proptest::collection::vec(1u32..8, 0..5)) {
        let text: String = nodes.iter().zip(0..).map(|(xccs, node)| print(node, *xccs, 56)).collect();
        let got = parse(&text).unwrap();
        prop_assert_eq!(got.len(), nodes.len());
        for (got, xccs) in got.iter().zip(&nodes) {
            prop_assert_eq!(got.slots.len() as u32, xccs * 3 + 2);
        }
    }

    #[test]
    fn any_text_is_survived(text in "(Node [0-9]{1,3}, gpu_id [0-9a-f]{1,5}:| Inst [0-9],  CP Pipe [0-9], Queue [0-9]|    [0-9a-f]{8}:( [0-9a-f]{8}){0,9}|.{0,20}\n){0,20}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_cut_is_survived(cut in 0usize..3000) {
        let text = print(2, 1, 56);
        let _ = parse(&text[..cut.min(text.len())]);
    }
}
