// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs mean.

use super::super::run::tests::{run_of, S};
use super::*;

fn model() -> Run {
    run_of(&[(7, 0, 1, Some(9)), (7, 1, 1, Some(9)), (7, 2, 2, Some(9))])
}

fn analyse(runs: Vec<Run>) -> Analysis {
    conclude(runs, Vec::new(), None, &Means::default())
}

fn holds(analysis: &Analysis, question: Question) -> Option<bool> {
    let of = |c: &&Conclusion| c.question == question;
    analysis.conclusions.iter().find(of).unwrap().holds
}

#[test]
fn runs_that_are_alike_make_fixed_ids_possible() {
    let mut other = model();
    for life in &mut other.lives {
        life.key.pid.0 += 100;
    }
    other.members[0].pid.0 += 100;
    let analysis = analyse(vec![model(), other]);
    for question in [Question::Count, Question::Ids, Question::Steady] {
        assert_eq!(holds(&analysis, question), Some(true), "{question:?}");
    }
    assert_eq!(analysis.decisions[0].choice, "fixed_ids");
    assert_eq!(
        analysis.conclusions[1].answer,
        "0 to 2 compute; the same in 2 of 2 runs, in the same order"
    );
}

#[test]
fn one_run_cannot_show_that_it_repeats() {
    let analysis = analyse(vec![model()]);
    assert_eq!(holds(&analysis, Question::Count), None);
    assert_eq!(holds(&analysis, Question::Ids), None);
    assert_eq!(holds(&analysis, Question::Steady), Some(true));
    assert_eq!(analysis.decisions[0].choice, "dynamic");
}

#[test]
fn other_ids_and_ids_used_again_need_identification_at_run_time() {
    let mut other = model();
    other.lives[2].key.queue_id = QueueId(5);
    let analysis = analyse(vec![model(), other]);
    assert_eq!(holds(&analysis, Question::Count), Some(true));
    assert_eq!(holds(&analysis, Question::Ids), Some(false));
    assert_eq!(analysis.decisions[0].choice, "dynamic");
    let churn = || run_of(&[(7, 0, 1, Some(2)), (7, 0, 3, Some(4)), (7, 0, 5, Some(9))]);
    let analysis = analyse(vec![churn(), churn()]);
    assert_eq!(holds(&analysis, Question::Ids), Some(true));
    assert_eq!(holds(&analysis, Question::Steady), Some(false));
    assert_eq!(analysis.decisions[0].choice, "dynamic");
}

#[test]
fn with_losses_nothing_is_certain() {
    let mut lossy = model();
    lossy.lost = 4;
    let analysis = analyse(vec![model(), lossy]);
    assert_eq!(holds(&analysis, Question::Count), None);
    assert_eq!(holds(&analysis, Question::Steady), None);
    assert_eq!(analysis.decisions[0].choice, "dynamic");
    assert!(analysis.conclusions[0].evidence[1].contains("4 records lost"));
}

#[test]
fn nothing_seen_is_open_everywhere() {
    let analysis = analyse(vec![run_of(&[]), run_of(&[])]);
    assert_eq!(holds(&analysis, Question::Steady), None);
    assert_eq!(holds(&analysis, Question::Slots), None);
    assert_eq!(analysis.decisions[0].choice, "dynamic");
}

#[test]
fn most_at_once_is_what_overlaps() {
    let run = run_of(&[(7, 0, 1, Some(3)), (7, 0, 3, Some(5)), (7, 1, 4, Some(6))]);
    let most = peak(&run, run.lives.iter());
    assert_eq!((most.compute, most.sdma), (2, 0));
}

#[test]
fn the_drivers_count_is_the_sum_or_not() {
    let mut run = model();
    run.sums.compared = 4;
    run.sums.equal = 3;
    run.sums.differ = vec![(S + 1, GpuId(1), 3, 2)];
    run.unsettled = 2;
    let told = sum(std::slice::from_ref(&run)).unwrap();
    assert_eq!(told.holds, Some(false));
    assert!(told.answer.contains("3 of 4 pictures"), "{}", told.answer);
    assert_eq!(told.evidence.len(), 2);
    run.sums.equal = 4;
    assert_eq!(sum(&[run]).unwrap().holds, Some(true));
    assert!(sum(&[model()]).is_none());
}

#[test]
fn a_queue_is_on_one_slot_of_each_xcc_if_every_picture_shows_it() {
    let mut run = model();
    run.lives[0].slots.sightings = 4;
    run.lives[0].slots.one_each = 4;
    assert_eq!(slots(std::slice::from_ref(&run)).holds, Some(true));
    run.lives[1].slots.sightings = 2;
    run.lives[1].slots.one_each = 1;
    run.lives[1].slots.none = 1;
    let told = slots(&[run]);
    assert_eq!(told.holds, Some(false));
    assert!(told.evidence[0].contains("waited for their turn"));
}

#[test]
fn the_scheme_is_what_the_driver_allows() {
    let runs = [model()];
    let choice = |patched, stock| {
        let means = Means {
            patched,
            stock,
            why: "seen".to_owned(),
        };
        scheme(&runs, &means).choice
    };
    assert_eq!(choice(true, None), "B");
    assert_eq!(choice(false, Some(true)), "C");
    assert_eq!(choice(false, None), "A");
    assert_eq!(choice(false, Some(false)), "none");
}

#[test]
fn ids_are_listed_in_ranges() {
    let ids = |ids: &[u32]| ranges(&ids.iter().copied().collect());
    assert_eq!(ids(&[0]), "0");
    assert_eq!(ids(&[0, 1]), "0, 1");
    assert_eq!(ids(&[0, 1, 2, 7, u32::MAX]), "0 to 2, 7, 4294967295");
}
