//! The way back: the server's answers, with what the driver expects between them.

use std::collections::VecDeque;

use super::{HEAD, Run, whole};

/// "Idle", as every request ends.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// What a request hears that the server has skipped: an error, as it was not executed.
const SKIPPED: &[u8] =
    b"E\0\0\0\x44SERROR\0VERROR\0C25P02\0Mskipped, as a request ahead of it failed\0\0";

/// Follows what is received.
#[derive(Debug, Default)]
pub(super) struct Answers {
    head: [u8; HEAD],
    head_len: usize,
    /// How much of an unfinished head the driver has already.
    shown: usize,
    /// What is still to come of a frame.
    left: usize,
    tag: u8,
    is_hidden: bool,
}

impl Answers {
    /// Whether the driver may receive what comes next as it comes.
    pub(super) fn may_pass(&self, runs: &VecDeque<Run>) -> bool {
        // A head that came in two parts, the first of which the driver does not have yet, is rewritten to its end.
        self.head_len == self.shown && runs.iter().all(|run| *run == Run::PLAIN)
    }

    /// Notes bytes that the driver has received as they came.
    pub(super) fn pass(&mut self, mut bytes: &[u8], runs: &mut VecDeque<Run>) {
        // Frames that are there as a whole, as nearly all are: of these only what ends a request matters here.
        if self.left == 0 && self.head_len == 0 {
            while let Some((frame, rest)) = whole(bytes) {
                if frame[0] == b'Z' {
                    runs.pop_front();
                }
                bytes = rest;
            }
        }
        self.follow(bytes, runs, None);
    }

    /// Writes what the driver is to receive.
    pub(super) fn rewrite(&mut self, bytes: &[u8], runs: &mut VecDeque<Run>, out: &mut Vec<u8>) {
        self.follow(bytes, runs, Some(out));
    }

    fn follow(
        &mut self,
        mut bytes: &[u8],
        runs: &mut VecDeque<Run>,
        mut out: Option<&mut Vec<u8>>,
    ) {
        while !bytes.is_empty() {
            // A frame that is there as a whole, as nearly all are.
            if self.left == 0
                && self.head_len == 0
                && let Some((frame, rest)) = whole(bytes)
            {
                bytes = rest;
                self.begin(frame[0], runs);
                if let Some(out) = out.as_mut().filter(|_| !self.is_hidden) {
                    out.extend_from_slice(frame);
                }
                self.end(runs, out.as_deref_mut());
            } else if self.left > 0 {
                let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
                if let Some(out) = out.as_mut().filter(|_| !self.is_hidden) {
                    out.extend_from_slice(body);
                }
                self.left -= body.len();
                bytes = rest;
                if self.left == 0 {
                    self.end(runs, out.as_deref_mut());
                }
            } else {
                let (head, rest) = bytes.split_at((HEAD - self.head_len).min(bytes.len()));
                self.head[self.head_len..][..head.len()].copy_from_slice(head);
                self.head_len += head.len();
                if out.is_none() {
                    self.shown = self.head_len;
                }
                bytes = rest;
                if self.head_len < HEAD {
                    return;
                }
                let [tag, length @ ..] = self.head;
                self.left = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                self.begin(tag, runs);
                if let Some(out) = out.as_mut().filter(|_| !self.is_hidden) {
                    out.extend_from_slice(&self.head[self.shown..]);
                }
                (self.head_len, self.shown) = (0, 0);
                if self.left == 0 {
                    self.end(runs, out.as_deref_mut());
                }
            }
        }
    }

    fn begin(&mut self, tag: u8, runs: &VecDeque<Run>) {
        self.tag = tag;
        // Parsed, bound, executed: of the commands that the driver knows nothing of.
        self.is_hidden =
            matches!(tag, b'1' | b'2' | b'C') && runs.front().is_some_and(|run| run.lead > 0);
    }

    fn end(&mut self, runs: &mut VecDeque<Run>, out: Option<&mut Vec<u8>>) {
        match (self.tag, runs.front_mut(), out) {
            (b'C', Some(run), _) if self.is_hidden => run.lead -= 1,
            (b'Z', ..) => {
                runs.pop_front();
            }
            (b'C' | b'I', Some(run), Some(out)) if run.requests > 1 => {
                run.requests -= 1;
                out.extend_from_slice(READY);
            }
            (b'E', Some(run), Some(out)) => {
                run.lead = 0;
                for _ in 1..std::mem::replace(&mut run.requests, 1) {
                    out.extend_from_slice(READY);
                    out.extend_from_slice(SKIPPED);
                }
            }
            _ => {}
        }
    }
}
