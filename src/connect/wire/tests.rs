//! What the driver is answered, whatever is sent and however the bytes are cut: against the protocol's rule, that a server
//! which meets an error skips everything up to the next Sync.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::answers::Answers;
use super::requests::{Requests, are_enough, rewrite};
use super::{Run, Wire};

/// A request and what becomes of it: so many rows, or an error.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Request {
    Execution(Option<u8>),
    Preparation(bool),
    Simple,
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        6 => (0_u8..4).prop_map(|rows| Request::Execution(Some(rows))),
        1 => Just(Request::Execution(None)),
        1 => any::<bool>().prop_map(Request::Preparation),
        1 => Just(Request::Simple),
    ]
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(4 + body.len()).unwrap().to_be_bytes();
    [&[tag], &length[..], body].concat()
}

impl Request {
    /// What the driver sends. The server below reads the outcome from the first message.
    fn bytes(self, number: usize) -> Vec<u8> {
        let number = u8::try_from(number).unwrap();
        match self {
            Self::Execution(Some(rows)) => {
                [frame(b'B', &[rows, number]), frame(b'E', &[]), frame(b'S', &[])].concat()
            }
            Self::Execution(None) => {
                [frame(b'B', &[255, number]), frame(b'E', &[]), frame(b'S', &[])].concat()
            }
            Self::Preparation(works) => {
                let works = if works { 0 } else { 255 };
                [frame(b'P', &[works, number]), frame(b'D', &[]), frame(b'S', &[])].concat()
            }
            Self::Simple => frame(b'Q', &[0, number]),
        }
    }
}

/// What the server answers.
fn serve(mut bytes: &[u8]) -> Vec<u8> {
    let (mut said, mut failed, mut bound) = (Vec::new(), false, [0, 0]);
    while let [tag, a, b, c, d, ..] = *bytes {
        let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
        let body = &bytes[5..length];
        bytes = &bytes[length..];
        match tag {
            b'S' => {
                failed = false;
                said.extend(frame(b'Z', b"I"));
            }
            _ if failed => {}
            b'P' | b'B' | b'Q' if body.first() == Some(&255) => {
                failed = true;
                said.extend(frame(b'E', body));
            }
            b'P' => said.extend(frame(b'1', &[])),
            b'D' => said.extend(frame(b'T', b"columns")),
            b'B' => {
                bound = [body[0], body[1]];
                said.extend(frame(b'2', &[]));
            }
            b'E' => {
                let notice = frame(b'N', b"by the way");
                said.extend(notice);
                (0..bound[0]).for_each(|_| said.extend(frame(b'D', &bound)));
                said.extend(frame(b'C', &bound));
            }
            b'Q' => said.extend([frame(b'C', body), frame(b'Z', b"I")].concat()),
            _ => unreachable!("{tag}"),
        }
    }
    said
}

/// The answers to each request: up to and with its "ready".
fn answers(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut current) = (Vec::new(), Vec::new());
    while let [tag, a, b, c, d, ..] = *bytes {
        let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
        current.extend(&bytes[..length]);
        bytes = &bytes[length..];
        if tag == b'Z' {
            all.push(std::mem::take(&mut current));
        }
    }
    assert!(bytes.is_empty() && current.is_empty(), "cut off: {current:?} {bytes:?}");
    all
}

fn pieces<'a>(mut bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, rest) = bytes.split_at((*cut).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}

/// A notice may come at any time, and is nobody's answer.
fn without_notices(mut bytes: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    while let [tag, a, b, c, d, ..] = *bytes {
        let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
        if tag != b'N' {
            rest.extend(&bytes[..length]);
        }
        bytes = &bytes[length..];
    }
    rest
}

/// Hands the pieces to the driver as the stream does.
fn receive(reader: &mut Answers, said: &[u8], cuts: &[usize], runs: &mut VecDeque<Run>) -> Vec<u8> {
    let mut received = Vec::new();
    for piece in pieces(said, cuts) {
        if reader.may_pass(runs) {
            reader.pass(piece, runs);
            received.extend(piece);
        } else {
            reader.rewrite(piece, runs, &mut received);
        }
    }
    received
}

fn is_skipped(answer: &[u8]) -> bool {
    answer.windows(5).any(|text| text == b"25P02")
}

fn wire() -> Wire {
    let wire = Wire::default();
    wire.is_followed.store(true, std::sync::atomic::Ordering::Relaxed);
    wire
}

proptest! {
    #[test]
    fn each_request_is_answered_as_if_alone_or_told_that_it_was_skipped(
        requests in vec(request(), 1..60),
        together in vec(1_usize..20, 0..20),
        cuts in vec(0_usize..40, 0..80),
        is_shared: bool,
    ) {
        let wire = wire();
        if is_shared {
            wire.share();
        }
        let (mut runs, mut sent) = (VecDeque::new(), Vec::new());
        let all: Vec<_> = requests.iter().enumerate().collect();
        let mut rest = &all[..];
        for count in together.into_iter().chain([usize::MAX]) {
            let (now, later) = rest.split_at(count.min(rest.len()));
            rest = later;
            let bytes: Vec<u8> = now.iter().flat_map(|(i, request)| request.bytes(*i)).collect();
            let taken = rewrite(&bytes, &wire, &mut sent, &mut runs);
            prop_assert_eq!(taken, bytes.len());
        }
        let syncs = sent.windows(5).filter(|bytes| bytes == b"S\0\0\0\x04").count();
        prop_assert!(is_shared || syncs == requests.iter().filter(|request| **request != Request::Simple).count());

        let said = serve(&sent);
        let heard = answers(&receive(&mut Answers::default(), &said, &cuts, &mut runs));
        prop_assert!(runs.is_empty());
        prop_assert_eq!(heard.len(), requests.len());
        let mut failed = false;
        for ((i, request), answer) in all.into_iter().zip(heard) {
            let alone = serve(&request.bytes(i));
            if is_skipped(&answer) {
                prop_assert!(is_shared && failed && matches!(request, Request::Execution(_)));
            } else {
                prop_assert_eq!(&answer, &alone);
            }
            failed = is_skipped(&answer) || alone.first() == Some(&b'2') && alone.contains(&b'E')
                || alone.first() == Some(&b'E');
        }
    }

    #[test]
    fn what_passes_is_counted_wherever_it_is_cut(
        requests in vec(request(), 1..30),
        cuts in vec(0_usize..12, 0..80),
        answer_cuts in vec(0_usize..12, 0..80),
    ) {
        let startup = [&12_u32.to_be_bytes()[..], b"startup!"].concat();
        let sent: Vec<u8> = requests.iter().enumerate().flat_map(|(i, r)| r.bytes(i)).collect();
        let all = [&startup[..], &sent].concat();
        let (mut runs, mut writer) = (VecDeque::new(), Requests::default());
        for piece in pieces(&all, &cuts) {
            // What is left of a request ends where the request does.
            let rest = writer.rest(piece);
            prop_assert!(rest <= piece.len() && (writer.is_between() == (rest == 0) || piece.is_empty()));
            writer.pass(&piece[..rest], &mut runs);
            prop_assert!(rest == piece.len() || writer.is_between());
            writer.pass(&piece[rest..], &mut runs);
        }
        prop_assert!(writer.is_between());
        prop_assert_eq!(&runs, &vec![Run::PLAIN; requests.len()]);
        let mut reader = Answers::default();
        for piece in pieces(&serve(&sent), &answer_cuts) {
            reader.pass(piece, &mut runs);
        }
        prop_assert!(runs.is_empty());
    }

    #[test]
    fn what_goes_ahead_of_a_request_is_seen_only_where_it_fails(
        request in request(),
        fails: bool,
        before in vec(request(), 0..5),
        cuts in vec(0_usize..12, 0..40),
        seen in 0_usize..100,
    ) {
        let wire = wire();
        prop_assert!(wire.go_with_next(&["BEGIN", "SET LOCAL statement_timeout = 1"]));
        // Its own bytes mean nothing to the server above.
        let begin = |outcome| [frame(b'P', &[outcome]), frame(b'B', &[0, 0]), frame(b'E', &[])].concat();
        if let Some(lead) = wire.lead().as_mut() {
            lead.frames = [begin(0), begin(if fails { 255 } else { 0 })].concat().as_slice().into();
        }
        // Answers to what was sent before may still be on their way, one of them half read.
        let (mut runs, mut writer) = (VecDeque::new(), Requests::default());
        writer.pass(&[0, 0, 0, 4], &mut runs);
        let earlier: Vec<u8> = before.iter().enumerate().flat_map(|(i, r)| r.bytes(i)).collect();
        writer.pass(&earlier, &mut runs);
        let (mut reader, mut received) = (Answers::default(), Vec::new());
        let said = serve(&earlier);
        let (seen, unseen) = said.split_at(seen.min(said.len()));
        reader.pass(seen, &mut runs);
        received.extend(seen);

        let (mut sent, bytes) = (Vec::new(), request.bytes(99));
        rewrite(&bytes, &wire, &mut sent, &mut runs);
        let took_it = !wire.has_lead.load(std::sync::atomic::Ordering::Relaxed);
        prop_assert_eq!(took_it, request != Request::Simple);
        let said = [unseen, &serve(&sent)].concat();
        received.extend(receive(&mut reader, &said, &cuts, &mut runs));
        prop_assert!(runs.is_empty());
        let heard = answers(&received);
        prop_assert_eq!(heard.len(), before.len() + 1);
        let last = without_notices(&heard[before.len()]);
        if took_it && fails {
            prop_assert_eq!(last, [frame(b'E', &[255]), frame(b'Z', b"I")].concat());
        } else {
            prop_assert_eq!(last, without_notices(&serve(&bytes)));
        }
    }
}

#[test]
fn closing_a_statement_is_not_what_a_transaction_begins_with() {
    let wire = wire();
    assert!(wire.go_with_next(&["BEGIN"]));
    let close = [frame(b'C', b"Ss1\0"), frame(b'S', &[])].concat();
    let (mut sent, mut runs) = (Vec::new(), VecDeque::new());
    assert_eq!(rewrite(&close, &wire, &mut sent, &mut runs), close.len());
    assert_eq!((&sent, &runs), (&close, &VecDeque::from([Run::PLAIN])));
    assert!(wire.take_back() && !wire.take_back());
}

#[test]
fn after_rows_were_copied_nothing_is_counted() {
    let (mut writer, mut runs) = (Requests::default(), VecDeque::new());
    writer.pass(&[0, 0, 0, 4], &mut runs);
    let copy =
        [Request::Execution(Some(0)).bytes(0), frame(b'd', b"row"), frame(b'c', &[])].concat();
    writer.pass(&copy, &mut runs);
    assert!(writer.has_copied && runs.is_empty());
}

#[test]
fn eight_have_gathered_and_not_a_part_of_the_eighth() {
    let eight: Vec<u8> = (0..8).flat_map(|i| Request::Execution(Some(1)).bytes(i)).collect();
    assert!(are_enough(&eight));
    assert!(!are_enough(&eight[..eight.len() - 1]));
}

#[cfg(feature = "local")]
mod on_a_server {
    use std::sync::Arc;

    use futures_util::SinkExt as _;
    use tokio_postgres::error::SqlState;

    use crate::connect::{Connector, Link, Role};
    use crate::testing::TestServers;
    use crate::{Config, Result};

    async fn link(servers: &TestServers) -> Result<Link> {
        let dsn = servers.dsn("pg1", "howdah_app")?;
        let connector = Connector::new(Arc::new(Config::new(&dsn).settings()?))?;
        let link = connector.link(&dsn.parse()?, Role::App).await?;
        link.client.batch_execute("CREATE TEMPORARY TABLE notes (n bigint)").await.unwrap();
        Ok(link)
    }

    async fn count(link: &Link) -> i64 {
        link.client.query_one("SELECT count(*) FROM notes", &[]).await.unwrap().get(0)
    }

    #[tokio::test]
    async fn a_statement_is_in_the_transaction_that_it_begins() -> Result<()> {
        let servers = TestServers::start(1).await?;
        let link = link(&servers).await?;
        let add = link.client.prepare("INSERT INTO notes VALUES ($1)").await.unwrap();
        for (end, left) in [("ROLLBACK", 0), ("COMMIT", 1)] {
            assert!(link.wire.go_with_next(&["BEGIN", "SET LOCAL statement_timeout = 1000"]));
            link.client.execute(&add, &[&1_i64]).await.unwrap();
            link.client.batch_execute(end).await.unwrap();
            assert_eq!(count(&link).await, left);
        }
        // Also if that has to be prepared first.
        assert!(link.wire.go_with_next(&["BEGIN"]));
        link.client.execute("INSERT INTO notes SELECT n FROM notes", &[]).await.unwrap();
        link.client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(count(&link).await, 1);
        assert!(!link.wire.take_back());
        Ok(())
    }

    #[tokio::test]
    async fn where_a_transaction_cannot_begin_its_statement_is_not_executed() -> Result<()> {
        let servers = TestServers::start(1).await?;
        let link = link(&servers).await?;
        let add = link.client.prepare("INSERT INTO notes VALUES ($1)").await.unwrap();
        for commands in [&["SELECT 1 / 0"][..], &["BEGIN", "SELECT 1 / 0"]] {
            assert!(link.wire.go_with_next(commands));
            let error = link.client.execute(&add, &[&1_i64]).await.unwrap_err();
            assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO), "{error}");
            link.client.batch_execute("ROLLBACK").await.unwrap();
            assert_eq!(count(&link).await, 0);
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_connection_on_which_rows_were_copied_goes_on_as_the_driver_has_it() -> Result<()> {
        let servers = TestServers::start(1).await?;
        let link = link(&servers).await?;
        for (rows, is_well) in [("1\n2\n", true), ("no number\n", false)] {
            let copy = link.client.copy_in::<_, bytes::Bytes>("COPY notes FROM STDIN");
            let mut sink = Box::pin(copy.await.unwrap());
            sink.send(bytes::Bytes::from(rows)).await.unwrap();
            assert_eq!(sink.as_mut().finish().await.is_ok(), is_well);
            assert_eq!(count(&link).await, 2);
            assert!(!link.wire.go_with_next(&["BEGIN"]));
        }
        Ok(())
    }
}
