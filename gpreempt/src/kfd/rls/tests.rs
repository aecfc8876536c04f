// SPDX-License-Identifier: MIT OR Apache-2.0
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

fn map_process(pasid: u32, queues: u32) -> Vec<u32> {
    let mut packet = vec![0; 21];
    packet[0] = 0xc013_a100;
    packet[1] = 0x1400_0000 | pasid;
    packet[13] = queues << 22 | 0x80;
    packet
}

fn map_queue(engine: u32, doorbell: u32, mqd: u64) -> Vec<u32> {
    vec![
        0xc005_a200,
        0x2000_0010 | engine << 26,
        doorbell << 2,
        mqd as u32,
        (mqd >> 32) as u32,
        0xe038,
        0x7f31,
    ]
}

const RUN_LIST: [u32; 4] = [0xc002_a500, 0x1000, 0, 0x80];

fn print(node: u32, gpu_id: u32, words: &[u32]) -> String {
    let mut out = format!("Node {node}, gpu_id {gpu_id:x}:\n");
    if words.is_empty() {
        out.push_str("  No active runlist\n");
    }
    for (line, words) in words.chunks(8).enumerate() {
        let words: Vec<String> = words.iter().map(|word| format!("{word:08x}")).collect();
        let _ = writeln!(out, "  {:08x}: {}", line * 32, words.join(" "));
    }
    out
}

#[test]
fn packets_of_two_processes() {
    let words = [
        map_process(0x8009, 3),
        map_queue(0, 0x1002, 0x6b_1000),
        map_queue(2, 0x1200, 0x6e_5000),
        map_process(0x800c, 1),
        map_queue(3, 0x1214, 0x1_0000_0000),
        vec![0; 9],
    ]
    .concat();
    let text = print(2, 0xf7bc, &words) + &print(3, 0xf05b, &[]);
    let got = parse(&text).unwrap();
    assert_eq!((got[0].node, got[0].gpu_id), (2, GpuId(0xf7bc)));
    assert_eq!(
        (
            got[0].processes(),
            got[0].compute_queues(),
            got[0].oversubscribed()
        ),
        (2, 1, false)
    );
    let packets = got[0].packets.as_ref().unwrap();
    assert_eq!(
        packets[0],
        Packet::MapProcess {
            pasid: 0x8009,
            num_queues: Some(3)
        }
    );
    let compute = Packet::MapQueue {
        engine: Engine::Compute,
        doorbell: 0x1002,
        mqd_address: 0x6b_1000,
        wptr_address: 0x7f31_0000_e038,
    };
    assert_eq!(packets[1], compute);
    assert!(matches!(
        packets[2],
        Packet::MapQueue {
            engine: Engine::Sdma(0),
            doorbell: 0x1200,
            ..
        }
    ));
    assert!(matches!(
        packets[4],
        Packet::MapQueue {
            engine: Engine::Sdma(1),
            mqd_address: 0x1_0000_0000,
            ..
        }
    ));
    assert_eq!(got[1].packets, None);
}

#[test]
fn a_process_without_active_queues_is_in_the_runlist() {
    let got = parse(&print(2, 1, &map_process(0x8009, 3))).unwrap();
    assert_eq!((got[0].processes(), got[0].compute_queues()), (1, 0));
}

#[test]
fn a_chained_runlist_is_oversubscribed() {
    let words = [map_process(1, 1), map_queue(0, 1, 1), RUN_LIST.to_vec()].concat();
    assert!(parse(&print(2, 1, &words)).unwrap()[0].oversubscribed());
}

#[test]
fn unknown_packets_are_stepped_over() {
    let other = vec![0xc001_1000, 1, 2];
    let got = parse(&print(2, 1, &[other, map_process(1, 0)].concat())).unwrap();
    assert_eq!(
        got[0].packets.as_ref().unwrap()[0],
        Packet::Other { opcode: 0x10 }
    );
    assert_eq!(got[0].processes(), 1);
}

#[test]
fn what_is_no_runlist_is_an_error() {
    assert_eq!(parse(""), Ok(Vec::new()));
    assert_eq!(parse("CP_HQD_VMID = 8\n").unwrap_err().line, 0);
    assert!(
        parse(&print(2, 1, &[0x1234_5678])).is_err(),
        "no packet header"
    );
    assert!(
        parse(&print(2, 1, &map_process(1, 1)[..20])).is_err(),
        "cut off"
    );
    assert!(parse(&print(2, 1, &[0; 8])).is_err(), "words but no packet");
    let hole = [map_process(1, 0), vec![0, 0, 7]].concat();
    assert!(
        parse(&print(2, 1, &hole)).is_err(),
        "something follows the end"
    );
    let text = print(2, 1, &map_process(1, 1)).replacen("00000020", "00000040", 1);
    assert_eq!(parse(&text).unwrap_err().line, 3);
}

proptest! {
    #[test]
    fn what_the_driver_prints_is_read_back(
        nodes in proptest::collection::vec(proptest::collection::vec((1u32..0x10000, 0u32..30), 0..4), 0..9)
    ) {
        let mut text = String::new();
        for (node, processes) in nodes.iter().enumerate() {
            let words: Vec<u32> = processes
                .iter()
                .flat_map(|(pasid, queues)| {
                    let queues: Vec<u32> = (0..*queues).flat_map(|q| map_queue(0, q, u64::from(q))).collect();
                    [map_process(*pasid, 9), queues].concat()
                })
                .collect();
            text += &print(node as u32, 100 + node as u32, &words);
        }
        let got = parse(&text).unwrap();
        prop_assert_eq!(got.len(), nodes.len());
        for (got, processes) in got.iter().zip(&nodes) {
            prop_assert_eq!(got.processes(), processes.len());
            prop_assert_eq!(got.compute_queues() as u32, processes.iter().map(|(_, queues)| queues).sum::<u32>());
        }
    }

    #[test]
    fn any_words_are_survived(words in proptest::collection::vec(any::<u32>(), 0..64)) {
        let _ = parse(&print(1, 1, &words));
    }

    #[test]
    fn any_text_is_survived(text in "(Node [0-9]{1,3}, gpu_id [0-9a-f]{1,5}:|  No active runlist|  [0-9a-f]{8}:( [0-9a-f]{8}){0,9}|.{0,20}\n){0,20}") {
        let _ = parse(&text);
    }
}
