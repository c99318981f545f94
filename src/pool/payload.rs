//! The bytes of the parameters that are under way on a connection, counted as they are encoded: nobody knows them sooner.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::BytesMut;
use postgres_types::{Format, IsNull, ToSql, Type};

/// What was sent to the server, and how much of it is answered.
#[derive(Debug, Default)]
pub(super) struct Payload {
    sent: AtomicU64,
    /// All up to here was sent before something that is answered, and so is answered, too.
    answered: AtomicU64,
}

impl Payload {
    pub(super) fn under_way(&self) -> u64 {
        self.sent.load(Relaxed).saturating_sub(self.answered.load(Relaxed))
    }

    /// Before a statement is sent. What is encoded and sent happens with no wait between, so that answers come in this order.
    pub(super) fn mark(&self) -> Mark<'_> {
        Mark { payload: self, up_to: AtomicU64::new(self.sent.load(Relaxed)) }
    }
}

/// The place of one statement among what was sent.
#[derive(Debug)]
pub(super) struct Mark<'a> {
    payload: &'a Payload,
    up_to: AtomicU64,
}

impl Mark<'_> {
    /// The statement is answered, and so is what was sent before it.
    pub(super) fn answered(&self) {
        self.payload.answered.fetch_max(self.up_to.load(Relaxed), Relaxed);
    }
}

/// A parameter that is counted when it is encoded, if anybody wants to know.
#[derive(Debug)]
pub(super) struct Counted<'a> {
    param: &'a (dyn ToSql + Sync),
    mark: Option<&'a Mark<'a>>,
}

impl<'a> Counted<'a> {
    pub(super) fn new(param: &'a (dyn ToSql + Sync), mark: Option<&'a Mark<'a>>) -> Self {
        Self { param, mark }
    }
}

impl ToSql for Counted<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql_checked(ty, out)
    }

    /// Whether the parameter does is found out when it is encoded.
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let before = out.len();
        let is_null = self.param.to_sql_checked(ty, out)?;
        if let Some(Mark { payload, up_to }) = self.mark {
            let bytes = (out.len() - before) as u64;
            up_to.store(payload.sent.fetch_add(bytes, Relaxed) + bytes, Relaxed);
        }
        Ok(is_null)
    }

    fn encode_format(&self, ty: &Type) -> Format {
        self.param.encode_format(ty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(mark: &Mark<'_>, text: &str) {
        let param = Counted::new(&text, Some(mark));
        assert!(matches!(param.to_sql_checked(&Type::TEXT, &mut BytesMut::new()), Ok(IsNull::No)));
    }

    #[test]
    fn an_answer_is_one_to_all_that_was_sent_before_it() {
        let payload = Payload::default();
        let first = payload.mark();
        send(&first, "abandoned");
        let second = payload.mark();
        send(&second, "to");
        send(&second, "gether");
        let third = payload.mark();
        assert_eq!(payload.under_way(), 17);
        second.answered();
        assert_eq!(payload.under_way(), 0);
        send(&third, "late");
        assert_eq!(payload.under_way(), 4);
        // Without parameters, behind all of them.
        payload.mark().answered();
        assert_eq!(payload.under_way(), 0);
        first.answered();
        assert_eq!(payload.under_way(), 0);
    }

    #[test]
    fn what_cannot_be_encoded_is_told_as_without_counting() {
        let payload = Payload::default();
        let mark = payload.mark();
        let wrong =
            Counted::new(&1_i32, Some(&mark)).to_sql_checked(&Type::TEXT, &mut BytesMut::new());
        assert!(wrong.err().unwrap().is::<postgres_types::WrongType>());
        assert_eq!(payload.under_way(), 0);
    }
}
