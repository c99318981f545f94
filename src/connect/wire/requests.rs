//! The way to the server: the driver's requests, with fewer Syncs or with something ahead of them.

use std::collections::VecDeque;

use super::{HEAD, Run, Wire, whole};

/// How many share a Sync at most, and how many go while others are under way, for which they gather otherwise. More would save
/// little: the first is answered with the last, and the server holds the locks of all until then.
const TOGETHER: u32 = 8;

/// Follows what is sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Requests {
    /// The beginning of a frame that was cut off before its length was known.
    head: [u8; HEAD],
    head_len: usize,
    /// What is still to come of a frame.
    left: usize,
    tag: u8,
    /// The first message has no tag.
    has_started: bool,
    /// In a request of several messages, before its Sync.
    is_within: bool,
    /// Rows were sent. How often the server answers depends on what it makes of them, so from then on nothing is counted.
    pub(super) has_copied: bool,
}

impl Requests {
    /// Whether no request is half sent.
    pub(super) fn is_between(&self) -> bool {
        self.has_started && !self.is_within && self.head_len == 0 && self.left == 0
    }

    /// How many of these bytes belong to the request that is half sent.
    pub(super) fn rest(mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.is_between() {
            at += self.step(&bytes[at..], &mut |_| {});
        }
        at
    }

    /// Notes bytes that go as the driver sent them.
    pub(super) fn pass(&mut self, mut bytes: &[u8], runs: &mut VecDeque<Run>) {
        while !bytes.is_empty() {
            let taken = self.step(bytes, &mut |run| runs.push_back(run));
            bytes = &bytes[taken..];
        }
        if self.has_copied && runs.iter().all(|run| *run == Run::PLAIN) {
            runs.clear();
        }
    }

    /// Takes one piece of a frame.
    fn step(&mut self, bytes: &[u8], sent: &mut impl FnMut(Run)) -> usize {
        // A frame that is there as a whole, as nearly all are.
        if self.has_started
            && self.left == 0
            && self.head_len == 0
            && let Some((frame, _)) = whole(bytes)
        {
            self.tag = frame[0];
            self.end(sent);
            return frame.len();
        }
        if self.left > 0 {
            let taken = self.left.min(bytes.len());
            self.left -= taken;
            if self.left == 0 {
                self.end(sent);
            }
            return taken;
        }
        let head = if self.has_started { HEAD } else { HEAD - 1 };
        let taken = (head - self.head_len).min(bytes.len());
        self.head[self.head_len..][..taken].copy_from_slice(&bytes[..taken]);
        self.head_len += taken;
        if self.head_len == head {
            let length = u32::from_be_bytes([0, 1, 2, 3].map(|i| self.head[head - 4 + i]));
            self.tag = if self.has_started { self.head[0] } else { 0 };
            self.left = (length as usize).saturating_sub(4);
            self.head_len = 0;
            if self.left == 0 {
                self.end(sent);
            }
        }
        taken
    }

    fn end(&mut self, sent: &mut impl FnMut(Run)) {
        self.has_started = true;
        match self.tag {
            b'S' | b'Q' => {
                self.is_within = false;
                sent(Run::PLAIN);
            }
            b'P' | b'B' | b'D' | b'E' | b'C' => self.is_within = true,
            b'd' | b'c' | b'f' => self.has_copied = true,
            _ => {}
        }
    }
}

/// Whether so many requests have gathered that they are worth a Sync of their own.
pub(super) fn are_enough(mut bytes: &[u8]) -> bool {
    (0..TOGETHER).all(|_| {
        let request = Request::first_of(bytes);
        bytes = &bytes[request.as_ref().map_or(0, |request| request.bytes.len())..];
        request.is_some()
    })
}

/// Writes whole requests as they are to be sent; returns how many bytes of them that were.
pub(super) fn rewrite(
    bytes: &[u8],
    wire: &Wire,
    out: &mut Vec<u8>,
    runs: &mut VecDeque<Run>,
) -> usize {
    let is_shared = wire.is_shared();
    let mut taken = 0;
    // Requests that were written without their Sync.
    let mut open = 0;
    while let Some(request) = Request::first_of(&bytes[taken..]) {
        taken += request.bytes.len();
        if is_shared && request.is_execution && open < TOGETHER {
            out.extend_from_slice(&request.bytes[..request.bytes.len() - HEAD]);
            open += 1;
            continue;
        }
        close(&mut open, out, runs);
        let lead = if request.takes_a_lead { wire.take_lead() } else { None };
        if let Some(lead) = &lead {
            out.extend_from_slice(&lead.frames);
        }
        if is_shared && request.is_execution {
            out.extend_from_slice(&request.bytes[..request.bytes.len() - HEAD]);
            open = 1;
        } else {
            out.extend_from_slice(request.bytes);
            runs.push_back(Run { lead: lead.map_or(0, |lead| lead.commands), requests: 1 });
        }
    }
    close(&mut open, out, runs);
    taken
}

/// Writes the Sync that requests share.
fn close(open: &mut u32, out: &mut Vec<u8>, runs: &mut VecDeque<Run>) {
    if *open > 0 {
        out.extend_from_slice(&SYNC);
        runs.push_back(Run { lead: 0, requests: std::mem::take(open) });
    }
}

const SYNC: [u8; HEAD] = [b'S', 0, 0, 0, 4];

/// One request of the driver's: a simple query, or messages up to their Sync.
struct Request<'a> {
    bytes: &'a [u8],
    /// It executes a statement that was prepared before, and does nothing else.
    is_execution: bool,
    /// It prepares or executes: if what goes ahead of it fails, whoever sent it hears of it.
    takes_a_lead: bool,
}

impl<'a> Request<'a> {
    /// The first of several, if it is there as a whole.
    fn first_of(bytes: &'a [u8]) -> Option<Self> {
        let (mut at, mut tags) = (0, [0; 3]);
        for i in 0.. {
            let (frame, _) = whole(&bytes[at..])?;
            at += frame.len();
            match tags.get_mut(i) {
                Some(tag) => *tag = frame[0],
                None => tags[2] = 0,
            }
            // Nothing comes behind a farewell.
            if matches!(frame[0], b'S' | b'Q' | b'X') {
                break;
            }
        }
        let bytes = &bytes[..at];
        let takes_a_lead = matches!(tags[0], b'P' | b'B');
        Some(Self { bytes, is_execution: tags == *b"BES", takes_a_lead })
    }
}
