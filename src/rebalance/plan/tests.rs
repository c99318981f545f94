//! Plans for clusters of every kind.

use proptest::prelude::*;

use super::*;

/// An instance: its capacity, whether it drains, and the sizes of its shards.
type Stock = (u8, bool, Vec<u32>);

fn cluster(stocks: &[Stock]) -> (Vec<Place>, Vec<Load>) {
    let mut shards = 0..;
    let (mut places, mut loads) = (Vec::new(), Vec::new());
    for (number, (capacity, drains, sizes)) in stocks.iter().enumerate() {
        let name = InstanceName::new(&format!("pg{number}")).unwrap();
        let state = if *drains { InstanceState::Draining } else { InstanceState::Active };
        places.push(Place { name: name.clone(), state, capacity: f64::from(*capacity) });
        for (size, shard) in sizes.iter().zip(&mut shards) {
            let shard = ShardId::new(shard).unwrap();
            let bytes = u64::from(*size);
            loads.push(Load { shard, instance: name.clone(), bytes, is_moving: false });
        }
    }
    (places, loads)
}

/// The cluster as it is once the moves are made.
fn carried_out<'a>(loads: &[Load], moves: impl Iterator<Item = &'a PlannedMove>) -> Vec<Load> {
    let mut loads = loads.to_vec();
    for planned in moves {
        let load = loads.iter_mut().find(|load| load.shard == planned.shard).unwrap();
        assert_eq!(load.instance, planned.from);
        load.instance = planned.to.clone();
    }
    loads
}

fn is_balanced(places: &[Place], loads: &[Load], by: RebalanceBy, tolerance: f64) -> bool {
    Floor::new(places, loads, by, tolerance).is_balanced()
}

fn stocks() -> impl Strategy<Value = Vec<Stock>> {
    let sizes = prop::collection::vec(1_u32..1000, 0..12);
    let stock = (1_u8..4, prop::bool::weighted(0.2), sizes);
    prop::collection::vec(stock, 1..6)
        .prop_filter("somebody takes shards", |stocks| stocks.iter().any(|stock| !stock.1))
}

fn ways() -> impl Strategy<Value = (RebalanceBy, f64)> {
    let by = prop_oneof![Just(RebalanceBy::Bytes), Just(RebalanceBy::Shards)];
    (by, prop_oneof![Just(0.0), Just(0.05), Just(0.2)])
}

proptest! {
    #[test]
    fn nothing_goes_to_an_instance_that_drains_and_nothing_stays_there(
        stocks in stocks(), (by, tolerance) in ways(),
    ) {
        let (places, loads) = cluster(&stocks);
        for aim in [Aim::Even, Aim::DrainOnly] {
            let plan = plan(&places, &loads, by, tolerance, aim);
            for (instance, place) in plan.instances.iter().zip(&places) {
                let drains = place.state == InstanceState::Draining;
                prop_assert!(!drains || instance.shards_after == 0);
                if drains {
                    prop_assert!(plan.moves.iter().all(|planned| planned.to != place.name));
                } else if aim == Aim::DrainOnly {
                    prop_assert!(plan.moves.iter().all(|planned| planned.from != place.name));
                }
            }
        }
    }

    #[test]
    fn by_shards_it_always_balances_and_in_the_fewest_moves(
        stocks in stocks(), tolerance in prop_oneof![Just(0.0), Just(0.05), Just(0.2)],
    ) {
        let by = RebalanceBy::Shards;
        let (places, loads) = cluster(&stocks);
        let plan = plan(&places, &loads, by, tolerance, Aim::Even);
        prop_assert!(plan.is_balanced);
        let after = carried_out(&loads, plan.moves.iter());
        prop_assert!(is_balanced(&places, &after, by, tolerance));

        // Whoever has too many gives them, whoever has too few takes them: no plan does with less.
        let floor = Floor::new(&places, &loads, by, tolerance);
        let over: f64 = floor.places.iter().map(Standing::over).sum();
        let under: f64 = floor.places.iter().map(Standing::under).sum();
        let fewest = over.max(under);
        prop_assert_eq!(plan.moves.len() as f64, fewest);
    }

    #[test]
    fn no_part_of_a_plan_can_be_left_out((stocks, (by, tolerance)) in (stocks(), ways())) {
        let (places, loads) = cluster(&stocks);
        let plan = plan(&places, &loads, by, tolerance, Aim::Even);
        prop_assert_eq!(
            plan.is_balanced,
            is_balanced(&places, &carried_out(&loads, plan.moves.iter()), by, tolerance)
        );
        if plan.is_balanced && plan.moves.len() <= 10 {
            let whole = (1_u32 << plan.moves.len()) - 1;
            for part in 0..whole {
                let kept = plan.moves.iter().enumerate().filter(|(i, _)| part & 1 << i != 0);
                let after = carried_out(&loads, kept.map(|(_, planned)| planned));
                prop_assert!(!is_balanced(&places, &after, by, tolerance), "{part:b} of {plan:?}");
            }
        }
    }

    #[test]
    fn a_plan_that_stopped_half_way_is_taken_up(
        stocks in stocks(), (by, tolerance) in ways(), done in 0_usize..20,
    ) {
        let (places, loads) = cluster(&stocks);
        let first = plan(&places, &loads, by, tolerance, Aim::Even);
        let half = carried_out(&loads, first.moves.iter().take(done));
        let rest = plan(&places, &half, by, tolerance, Aim::Even);
        if by == RebalanceBy::Shards {
            prop_assert!(rest.is_balanced);
            prop_assert_eq!(rest.moves.len(), first.moves.len().saturating_sub(done));
        }
        let whole = carried_out(&half, rest.moves.iter());
        let again = plan(&places, &whole, by, tolerance, Aim::Even);
        prop_assert!(!rest.is_balanced || again.moves.is_empty(), "{again:?}");
    }

    #[test]
    fn what_is_on_the_move_already_is_left_alone(stocks in stocks(), (by, tolerance) in ways()) {
        let (places, mut loads) = cluster(&stocks);
        for load in loads.iter_mut().step_by(2) {
            load.is_moving = true;
        }
        let plan = plan(&places, &loads, by, tolerance, Aim::Even);
        for planned in &plan.moves {
            let load = loads.iter().find(|load| load.shard == planned.shard).unwrap();
            prop_assert!(!load.is_moving);
        }
    }

    #[test]
    fn shards_of_like_size_are_balanced_by_bytes_too(
        counts in prop::collection::vec(0_usize..30, 2..5), size in 900_u32..1000,
    ) {
        let total: usize = counts.iter().sum();
        prop_assume!(total >= 10 * counts.len());
        let mut sizes = (0..).map(|n: u32| size + n % 7);
        let stocks: Vec<_> = counts
            .iter()
            .map(|count| (1, false, sizes.by_ref().take(*count).collect()))
            .collect();
        let (places, loads) = cluster(&stocks);
        let plan = plan(&places, &loads, RebalanceBy::Bytes, 0.1, Aim::Even);
        prop_assert!(plan.is_balanced, "{plan:?}");
    }
}

#[test]
fn a_new_instance_takes_the_largest_first_and_its_share() {
    let (places, loads) = cluster(&[
        (1, false, vec![25, 25, 10, 10, 10, 10]),
        (1, false, vec![30, 30, 30]),
        (1, false, vec![]),
    ]);
    let plan = plan(&places, &loads, RebalanceBy::Bytes, 0.1, Aim::Even);
    assert!(plan.is_balanced);
    let moves: Vec<_> = plan.moves.iter().map(|planned| planned.shard.get()).collect();
    assert_eq!((moves, plan.bytes()), (vec![8, 0], 55), "{plan:?}");
}

#[test]
fn one_instance_alone_and_an_empty_cluster_need_nothing() {
    for stocks in [vec![(1, false, vec![1, 2, 3])], vec![(1, false, vec![]), (2, false, vec![])]] {
        let (places, loads) = cluster(&stocks);
        let plan = plan(&places, &loads, RebalanceBy::Bytes, 0.0, Aim::Even);
        assert!(plan.moves.is_empty() && plan.is_balanced);
    }
}

#[test]
fn capacity_is_a_share() {
    let (places, loads) = cluster(&[(1, false, vec![1; 12]), (3, false, vec![])]);
    let plan = plan(&places, &loads, RebalanceBy::Shards, 0.0, Aim::Even);
    assert_eq!(plan.moves.len(), 9);
}
