//! The streams of a session together: turns, backlog, ends, memory.

use super::*;

#[test]
fn streams_take_turns_and_lost_bytes_go_first() {
    let mut streams = Streams::new(true);
    let (first, second) = (streams.open().unwrap(), streams.open().unwrap());
    streams.write(first, &[1; 300]);
    streams.write(second, &[2; 300]);
    let order: Vec<_> = (0..4).map(|_| streams.next_segment(|_| 100).unwrap().0).collect();
    assert_eq!(order, [first, second, first, second]);
    streams.on_stream_lost(second, 0, 100, false);
    let (id, segment) = streams.next_segment(|_| 100).unwrap();
    assert!(id == second && segment.retransmission);
    let order: Vec<_> = (0..2).map(|_| streams.next_segment(|_| 100).unwrap().0).collect();
    assert_eq!(order, [first, second], "and cost it no turn");
    assert!(streams.next_segment(|_| 100).is_none() && !streams.has_ready());
}

/// Streams of these weights whose writers write whatever they may, over a path of `bdp` bytes, until `bytes` have
/// left: what each sent.
fn sent_by_weight(weights: &[u8], bdp: u64, bytes: usize) -> Vec<usize> {
    let mut streams = Streams::new(true);
    streams.set_backlog_limits(2 * bdp, 4 * bdp, 4 * bdp);
    let ids: Vec<_> = weights.iter().map(|_| streams.open().unwrap()).collect();
    for (&id, &weight) in ids.iter().zip(weights) {
        streams.set_weight(id, Weight::new(weight).unwrap());
    }
    let (chunk, mut sent, mut under_way) = (vec![0; 1 << 20], vec![0; weights.len()], VecDeque::new());
    let mut consumed = vec![0; weights.len()];
    while sent.iter().sum::<usize>() < bytes {
        ids.iter().for_each(|&id| {
            streams.write(id, &chunk);
        });
        while under_way.iter().map(|(_, segment): &(usize, Segment)| segment.len as u64).sum::<u64>() < bdp {
            let Some((id, segment)) = streams.next_segment(|_| 1400) else { break };
            let at = ids.iter().position(|&known| known == id).unwrap();
            sent[at] += segment.len;
            under_way.push_back((at, segment));
        }
        // A part of a round trip later.
        for (at, segment) in under_way.drain(..under_way.len().div_ceil(4)) {
            streams.on_stream_acked(ids[at], segment.offset, segment.len as u64, false);
            consumed[at] += segment.len as u64;
            streams.on_credit(ids[at], consumed[at], u64::MAX / 2).unwrap();
        }
    }
    sent
}

#[test]
fn streams_share_by_weight() {
    let sent = sent_by_weight(&[30, 10], 500_000, 20_000_000);
    let ratio = sent[0] as f64 / sent[1] as f64;
    assert!((2.94..3.06).contains(&ratio), "{sent:?}");
}

#[test]
fn a_crowd_of_light_streams_does_not_take_the_backlog_of_a_heavy_one() {
    let mut weights = [1; 51];
    weights[0] = 100;
    let sent = sent_by_weight(&weights, 400_000, 20_000_000);
    let share = sent[0] as f64 / sent.iter().sum::<usize>() as f64;
    assert!((0.65..0.68).contains(&share), "{share} of the line for 100 of 150");
}

#[test]
fn a_weight_may_change_while_bytes_wait() {
    let mut streams = Streams::new(true);
    let id = streams.open().unwrap();
    streams.write(id, &[1; 300]);
    streams.set_weight(id, Weight::MAX);
    assert_eq!(streams.active, 100);
    streams.reset(id, ResetCode(0));
    assert_eq!(streams.active, 0);
    streams.set_weight(id, Weight::MIN);
    assert_eq!(streams.active, 0, "it is gone");
}

#[test]
fn what_waits_to_be_sent_is_counted_over_all_streams_and_copies_do_not_count() {
    let mut streams = Streams::new(true);
    let (first, second) = (streams.open().unwrap(), streams.open().unwrap());
    streams.write(first, &[1; 300]);
    streams.write(second, &[2; 200]);
    assert_eq!(streams.unsent(), 500);
    streams.next_segment(|_| 100).unwrap();
    streams.next_segment(|_| 100).unwrap();
    assert_eq!(streams.unsent(), 300);
    streams.on_stream_lost(first, 0, 100, false);
    let sent: Vec<_> = (0..2).map(|_| streams.next_segment(|_| 100).unwrap().1.retransmission).collect();
    let expected = 300 - 100 * sent.iter().filter(|copy| !**copy).count() as u64;
    assert!(sent.contains(&true) && streams.unsent() == expected, "{sent:?}");
    streams.reset(first, ResetCode(0));
    streams.reset(second, ResetCode(0));
    assert_eq!(streams.unsent(), 0);
}

#[test]
fn a_writer_that_its_pace_holds_back_is_not_bound_by_what_is_under_way() {
    let mut streams = Streams::new(true);
    streams.set_backlog_limits(1 << 20, 1 << 20, 1 << 20);
    let id = streams.open().unwrap();
    streams.write(id, &vec![1; 1 << 20]);
    assert!(!streams.is_flight_bound(), "most of it has not left");
    while streams.next_segment(|_| 1400).is_some() {}
    assert!(streams.is_flight_bound());
    streams.on_stream_acked(id, 0, 1 << 19, false);
    assert!(!streams.is_flight_bound(), "half of it has arrived, and may wait there");
}

#[test]
fn a_writer_is_woken_once_when_the_peer_has_consumed_what_it_asked_for() {
    let mut streams = Streams::new(true);
    let id = streams.open().unwrap();
    streams.write(id, &[1; 300]);
    streams.wake_when_consumed(id, 200);
    streams.on_credit(id, 199, 1 << 30).unwrap();
    assert_eq!((streams.poll_event(), streams.consumed_of(id)), (None, 199));
    streams.on_credit(id, 250, 1 << 30).unwrap();
    streams.on_credit(id, 300, 1 << 30).unwrap();
    assert_eq!(streams.poll_event(), Some(Event::Writable(id)));
    assert_eq!(streams.poll_event(), None);
    streams.wake_when_consumed(id, 300);
    assert_eq!(streams.poll_event(), Some(Event::Writable(id)), "already so");
}

#[test]
fn a_stream_ends_when_both_directions_have() {
    let mut streams = Streams::new(true);
    let id = streams.open().unwrap();
    streams.write(id, b"x");
    streams.finish(id);
    streams.next_segment(|_| 100);
    streams.on_stream_acked(id, 0, 1, true);
    assert_eq!(streams.len(), 1);
    streams.on_stream(id, 0, b"y", true).unwrap();
    assert_eq!(streams.consume(id, 1), ReadState::Finished);
    assert_eq!((streams.len(), streams.backlog()), (0, 0));
    streams.on_stream(id, 0, b"y", true).unwrap();
    assert_eq!(streams.len(), 0, "a late copy opens nothing");
}

#[test]
fn a_stream_ends_also_where_credit_says_that_symbols_gave_back_the_last_of_it() {
    let mut streams = Streams::new(true);
    let id = streams.open().unwrap();
    streams.write(id, &[0; 100]);
    streams.finish(id);
    while streams.next_segment(|_| 60).is_some() {}
    streams.on_stream(id, 0, b"y", true).unwrap();
    streams.consume(id, 1);
    streams.on_stream_acked(id, 60, 40, true);
    super::super::repair::Source::on_covered(&mut streams, id, 100);
    streams.on_credit(id, 59, 1 << 30).unwrap();
    assert_eq!(streams.len(), 1, "a byte has not arrived");
    streams.on_credit(id, 100, 1 << 30).unwrap();
    assert_eq!((streams.len(), streams.backlog()), (0, 0));
}

#[test]
fn a_reset_that_overtakes_the_first_bytes_wins() {
    let mut streams = Streams::new(true);
    streams.on_reset(StreamId(1), ResetCode(9));
    streams.on_stream(StreamId(1), 0, b"late", false).unwrap();
    assert_eq!(streams.poll_event(), None);
}

#[test]
fn streams_at_rest_are_not_looked_at_and_their_memory_is_given_back() {
    let mut streams = Streams::new(true);
    let ids: Vec<_> = (0..1000).map(|_| streams.open().unwrap()).collect();
    streams.set_backlog_limits(1 << 20, 1 << 20, 1 << 20);
    streams.write(ids[7], &vec![0; 1 << 18]);
    streams.on_stream(StreamId(1), 0, &vec![0; 40_000], false).unwrap();
    assert_eq!(streams.restless, [ids[7], StreamId(1)]);
    streams.release_idle();
    streams.widen_windows();
    streams.on_stream_acked(ids[7], 0, 1 << 18, false);
    assert_eq!(streams.restless.len(), 2, "there is memory to give back");
    assert!(streams.pool.held() >= 1 << 18);
    streams.consume(StreamId(1), 40_000);
    for _ in 0..4 {
        streams.release_idle();
        streams.widen_windows();
    }
    assert!(streams.restless.is_empty());
    assert_eq!(streams.pool.held(), 0);
    streams.write(ids[7], b"x");
    assert_eq!(streams.restless, [ids[7]]);
}

#[test]
fn backlog_is_bounded_for_one_and_shared_by_many() {
    let mut streams = Streams::new(true);
    streams.set_backlog_limits(1 << 20, 1 << 20, 1 << 20);
    let ids: Vec<_> = (0..4).map(|_| streams.open().unwrap()).collect();
    let big = vec![0; 4 << 20];
    assert_eq!(streams.write(ids[0], &big), 1 << 20);
    assert_eq!(streams.write(ids[1], &big), BACKLOG_SHARE_MIN as usize, "a newcomer always gets its minimum");
    streams.on_stream_acked(ids[0], 0, 1 << 20, false);
    streams.wake_writers();
    assert_eq!(streams.poll_event(), None, "it has arrived, and waits there to be consumed");
    streams.on_credit(ids[0], 1 << 20, 1 << 30).unwrap();
    streams.wake_writers();
    assert!(matches!(streams.poll_event(), Some(Event::Writable(_))));
    assert!(streams.write(ids[0], &big) <= 1 << 19);
    for id in ids {
        streams.reset(id, ResetCode(0));
    }
    assert_eq!((streams.backlog(), streams.active), (0, 0));
    streams.release_idle();
    streams.release_idle();
    assert_eq!(streams.memory(), 0, "streams that are gone hold nothing");
}

#[test]
fn credit_that_was_told_of_late_is_told_once_more() {
    let mut streams = Streams::new(true);
    for id in [1, 3] {
        streams.on_stream(StreamId(id), 0, &[0; 100], false).unwrap();
        streams.consume(StreamId(id), 100);
    }
    let told =
        |streams: &mut Streams| std::iter::from_fn(|| streams.next_credit()).map(|(id, ..)| id.0).collect::<Vec<_>>();
    assert_eq!(told(&mut streams), [1, 3]);
    assert!(!streams.has_credits());
    streams.settle_credits(true);
    assert_eq!(told(&mut streams), [1, 3]);
    streams.settle_credits(false);
    streams.settle_credits(true);
    assert!(!streams.has_credits(), "and not again");
}
