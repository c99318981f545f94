//! What a statement may do, as far as its text tells; decided when it is made.
//!
//! A single read may share a connection with others, be given up without a trace, and be done again. So everything in
//! doubt is no read: a word that could write, lock or change the session; a function that is not on the list
//! of those known to be harmless; a second statement; text that cannot be taken apart. What is wrongly taken for no
//! read is merely slower. PostgreSQL itself is the second guard: connections for reads are read only.
//!
//! Everything here is `const`, so that a constant of the program is classified when it is compiled.

/// What a statement may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Nature {
    /// As far as its text tells, it reads and does nothing else.
    SingleRead,
    /// A query or a change of rows, all or nothing.
    Rows,
    /// The same, and it changes the session beyond its transaction.
    Session,
    /// A procedure or a block of code: it may change the session, and commit in the middle of itself.
    Procedure,
    /// A command of several transactions, such as VACUUM. It commits in the middle of itself, but not before it has found what
    /// it names.
    Gradual,
    /// Whatever else there is: it may change the session.
    Other,
}

/// Words with which a read begins.
const BEGINNINGS: &str = "select table values with";
/// Words with which a query or a change of rows begins.
const ROWS: &str = "select table values with insert update delete merge";
/// Words with which a procedure is called, or a block of code given.
const PROCEDURES: &str = "call do";
/// Commands that commit on their way, and those that do when they work concurrently.
const GRADUAL: &str = "cluster reindex vacuum";
const CONCURRENT: &str = "alter create drop";

/// Words that do not stand in a plain read, or may do more than read. `for` is FOR UPDATE; `into` makes a table.
const FORBIDDEN: &str = "\
    alter analyze begin call checkpoint close cluster comment commit copy create deallocate \
    declare delete discard do drop execute explain fetch for grant import insert into listen \
    load lock merge move notify prepare reassign refresh reindex release reset revoke rollback \
    savepoint security set show start truncate unlisten update vacuum";

/// Words before a parenthesis that call nothing; the last ones are types with a length.
const SYNTAX: &str = "\
    all and any array as asc between by case cast cube desc distinct else except exists extract \
    filter from group having in intersect interval is join lateral like ilike limit materialized \
    not offset on or order over partition recursive rollup row select sets similar some then to \
    union using values when where within bit char character decimal numeric time timestamp \
    timestamptz varbit varchar varying";

/// Functions of PostgreSQL that read their arguments and nothing else.
const FUNCTIONS: &str = "\
    abs age array_agg array_append array_cat array_length array_position array_remove \
    array_to_json array_to_string avg bit_and bit_or bool_and bool_or btrim cardinality ceil \
    ceiling char_length coalesce concat concat_ws corr cos count cume_dist date_bin date_part \
    date_trunc decode degrees dense_rank div encode every exp first_value floor format \
    generate_series greatest hashint8extended hashtextextended initcap json_agg \
    json_array_elements json_array_length json_build_array json_build_object json_object_agg \
    jsonb_agg jsonb_array_elements jsonb_array_elements_text jsonb_array_length \
    jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text jsonb_object_agg \
    jsonb_object_keys jsonb_strip_nulls jsonb_to_recordset jsonb_typeof lag last_value lead \
    least left length ln log lower lpad ltrim make_date make_interval make_timestamptz max md5 \
    min mod mode now nth_value ntile nullif num_nonnulls num_nulls numrange octet_length overlay \
    percent_rank percentile_cont percentile_disc plainto_tsquery point position power radians \
    random rank regexp_match regexp_replace repeat replace reverse right round row_number \
    row_to_json rpad rtrim sha256 sign sin split_part sqrt starts_with stddev string_agg \
    string_to_array strpos substr substring sum to_char to_date to_json to_jsonb to_number \
    to_timestamp to_tsquery to_tsvector translate trim trunc ts_headline ts_rank ts_rank_cd \
    unnest upper variance websearch_to_tsquery width_bucket";

/// Functions whose effect outlasts the transaction; `set_config` does not where its last argument is `true`.
const SESSION: &str = "\
    dblink_connect dblink_connect_u pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock \
    pg_try_advisory_lock_shared set_config setseed";

/// What the text may do.
pub(super) const fn nature(text: &str) -> Nature {
    let text = text.as_bytes();
    if is_single_read(text) {
        Nature::SingleRead
    } else if begins_with(text, ROWS) {
        if changes_session(text) { Nature::Session } else { Nature::Rows }
    } else if begins_with(text, PROCEDURES) {
        Nature::Procedure
    } else if begins_with(text, GRADUAL)
        || begins_with(text, CONCURRENT) && has_word(text, "concurrently")
    {
        Nature::Gradual
    } else {
        Nature::Other
    }
}

/// Whether the first word is one of these.
const fn begins_with(text: &[u8], words: &str) -> bool {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'(' => at += 1,
            byte if is_blank(byte) => at += 1,
            b'-' if is(text, at + 1, b'-') => at = after_line(text, at),
            b'/' if is(text, at + 1, b'*') => match after_comment(text, at) {
                Some(end) => at = end,
                None => return false,
            },
            _ => {
                let start = at;
                while at < text.len() && is_word(text[at]) {
                    at += 1;
                }
                return is_listed(text, start, at, words);
            }
        }
    }
    false
}

/// Whether one of these words is anywhere.
const fn has_word(text: &[u8], words: &str) -> bool {
    let mut at = 0;
    while at < text.len() {
        let start = at;
        while at < text.len() && is_word(text[at]) {
            at += 1;
        }
        if at > start && is_listed(text, start, at, words) {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether what it does to the session is still there when its transaction is over. Also wherever it might be: a word in a
/// string counts, and costs a new connection.
const fn changes_session(text: &[u8]) -> bool {
    let mut at = 0;
    let mut into = false;
    while at < text.len() {
        if !is_word(text[at]) {
            at += 1;
            continue;
        }
        let start = at;
        while at < text.len() && is_word(text[at]) {
            at += 1;
        }
        // SELECT … INTO TEMP makes a table that is there for whoever has the session next.
        if into && is_listed(text, start, at, "temp temporary") {
            return true;
        }
        into = is_listed(text, start, at, "into")
            || into && is_listed(text, start, at, "local global");
        let is_local = is_listed(text, start, at, "set_config") && ends_with_true(text, at);
        // Whether it is quoted or not.
        let end = if is(text, at, b'"') { at + 1 } else { at };
        if is_listed(text, start, at, SESSION) && is_call(text, end) && !is_local {
            return true;
        }
    }
    false
}

/// Whether `true`, and nothing else, is the last of the arguments in the parentheses that come next.
const fn ends_with_true(text: &[u8], mut at: usize) -> bool {
    let mut depth = 0;
    // An argument begins here; it was the word, and nothing has followed.
    let (mut begins, mut is_true) = (false, false);
    while at < text.len() {
        let start = at;
        at += 1;
        match text[start] {
            byte if is_blank(byte) => continue,
            b')' if depth <= 1 => return is_true,
            b')' => depth -= 1,
            b'(' => depth += 1,
            b',' if depth == 1 => {
                (begins, is_true) = (true, false);
                continue;
            }
            b'\'' => match after_quotes(text, start, b'\'', false) {
                Some(end) => at = end,
                None => return false,
            },
            first if is_word(first) => {
                while at < text.len() && is_word(text[at]) {
                    at += 1;
                }
                is_true = begins && is_listed(text, start, at, "true");
                begins = false;
                continue;
            }
            _ => {}
        }
        (begins, is_true) = (false, false);
    }
    false
}

/// Whether the text is provably one read.
const fn is_single_read(text: &[u8]) -> bool {
    let mut at = 0;
    let mut words = 0;
    // Whether the last token was a full stop: what follows is somebody's own name.
    let mut qualified = false;
    // Whether a full stop here qualifies a name; behind anything else it may call a function without parentheses.
    let mut named = false;
    // Whether the last token was a string, which another one on the next line would go on.
    let mut string = false;
    while at < text.len() {
        match text[at] {
            byte if is_blank(byte) => {
                at += 1;
                continue;
            }
            b'-' if is(text, at + 1, b'-') => {
                at = after_line(text, at);
                continue;
            }
            b'/' if is(text, at + 1, b'*') => match after_comment(text, at) {
                Some(end) => {
                    at = end;
                    continue;
                }
                None => return false,
            },
            // At the very end it separates nothing.
            b';' => return words > 0 && is_blank_to_the_end(text, at + 1),
            b'\'' if string => return false,
            b'\'' => match after_quotes(text, at, b'\'', false) {
                Some(end) => {
                    at = end;
                    string = true;
                    named = false;
                    qualified = false;
                    continue;
                }
                None => return false,
            },
            b'"' => match after_quotes(text, at, b'"', false) {
                // A quoted name before a parenthesis is a function of somebody's own.
                Some(end) if is_call(text, end) => return false,
                Some(end) => {
                    at = end;
                    string = false;
                    named = true;
                    qualified = false;
                    continue;
                }
                None => return false,
            },
            // The shard's name qualifies what follows, or it would melt into it.
            b'}' if !is(text, at + 1, b'.') => return false,
            // $1 is a parameter; $$ and $tag$ begin text that no plain read needs.
            b'$' if at + 1 < text.len() && text[at + 1].is_ascii_digit() => at += 2,
            b'$' => return false,
            first if is_word(first) => {
                let start = at;
                while at < text.len() && (is_word(text[at]) || text[at] == b'$') {
                    at += 1;
                }
                words += 1;
                if words == 1 && !is_listed(text, start, at, BEGINNINGS) {
                    return false;
                }
                if is_unicode_quote(text, start, at) {
                    return false;
                }
                string = is_prefix_of_string(text, start, at);
                named = !string;
                if string {
                    let escapes = text[start].eq_ignore_ascii_case(&b'e');
                    match after_quotes(text, at, text[at], escapes) {
                        Some(end) => at = end,
                        None => return false,
                    }
                } else if is_listed(text, start, at, FORBIDDEN)
                    || is_call(text, at) && (qualified || !is_harmless(text, start, at))
                {
                    return false;
                }
                qualified = false;
                continue;
            }
            b'.' if !named && !is_digit_at(text, at + 1) => return false,
            other => {
                qualified = other == b'.';
                named = other == b'}';
                string = false;
                at += 1;
                continue;
            }
        }
        qualified = false;
        named = false;
        string = false;
    }
    words > 0
}

const fn is(text: &[u8], at: usize, byte: u8) -> bool {
    at < text.len() && text[at] == byte
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// What PostgreSQL takes for a blank.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

const fn is_digit_at(text: &[u8], at: usize) -> bool {
    at < text.len() && text[at].is_ascii_digit()
}

/// U&'…' and U&"…", whose escapes no plain read needs.
const fn is_unicode_quote(text: &[u8], start: usize, end: usize) -> bool {
    end == start + 1
        && text[start].eq_ignore_ascii_case(&b'u')
        && is(text, end, b'&')
        && (is(text, end + 1, b'\'') || is(text, end + 1, b'"'))
}

/// E'…', B'…', X'…', N'…': letters that belong to the string behind them.
const fn is_prefix_of_string(text: &[u8], start: usize, end: usize) -> bool {
    end == start + 1
        && is(text, end, b'\'')
        && matches!(text[start], b'e' | b'E' | b'b' | b'B' | b'x' | b'X' | b'n' | b'N')
}

/// Whether a parenthesis comes next, past blanks and comments.
const fn is_call(text: &[u8], mut at: usize) -> bool {
    while at < text.len() {
        match text[at] {
            byte if is_blank(byte) => at += 1,
            b'-' if is(text, at + 1, b'-') => at = after_line(text, at),
            b'/' if is(text, at + 1, b'*') => match after_comment(text, at) {
                Some(end) => at = end,
                None => return true,
            },
            b'(' => return true,
            _ => return false,
        }
    }
    false
}

const fn is_blank_to_the_end(text: &[u8], mut at: usize) -> bool {
    while at < text.len() {
        if !is_blank(text[at]) {
            return false;
        }
        at += 1;
    }
    true
}

const fn after_line(text: &[u8], mut at: usize) -> usize {
    while at < text.len() && text[at] != b'\n' && text[at] != b'\r' {
        at += 1;
    }
    at
}

/// PostgreSQL's comments nest.
const fn after_comment(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0;
    while at + 1 < text.len() {
        if text[at] == b'/' && text[at + 1] == b'*' {
            depth += 1;
            at += 2;
        } else if text[at] == b'*' && text[at + 1] == b'/' {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    None
}

/// Past a quoted text that begins at `at`; a doubled quote stands for itself.
const fn after_quotes(text: &[u8], mut at: usize, quote: u8, escapes: bool) -> Option<usize> {
    at += 1;
    while at < text.len() {
        if escapes && text[at] == b'\\' {
            at += 2;
        } else if text[at] != quote {
            at += 1;
        } else if is(text, at + 1, quote) {
            at += 2;
        } else {
            return Some(at + 1);
        }
    }
    None
}

/// Whether a word before a parenthesis calls nothing, or a function that is known to be harmless.
const fn is_harmless(text: &[u8], start: usize, end: usize) -> bool {
    is_listed(text, start, end, SYNTAX) || is_listed(text, start, end, FUNCTIONS)
}

/// Whether a word is one of a list that is separated by blanks; case does not matter.
const fn is_listed(text: &[u8], start: usize, end: usize, list: &str) -> bool {
    let list = list.as_bytes();
    let mut at = 0;
    while at < list.len() {
        let mut same = 0;
        while start + same < end
            && at < list.len()
            && text[start + same].to_ascii_lowercase() == list[at]
        {
            same += 1;
            at += 1;
        }
        if start + same == end && (at == list.len() || list[at] == b' ') {
            return true;
        }
        while at < list.len() && list[at] != b' ' {
            at += 1;
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_reads_are_reads() {
        for text in [
            "SELECT caption FROM {shard}.photos WHERE id = $1",
            "select id, user_id from {shard}.photos where user_id = ANY($1) and id < $2 order by id desc limit $3",
            "SELECT count(*), max(id), coalesce(sum(likes), 0)::int8 FROM {shard}.photos;",
            "  -- a comment; with a semicolon\n SELECT /* and /* nested */ */ 1 FROM {shard}.t",
            "WITH recent AS (SELECT * FROM {shard}.t) SELECT * FROM recent JOIN {shard}.u USING (id)",
            "WITH RECURSIVE up AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM up) SELECT id FROM up, {shard}.t",
            "TABLE {shard}.photos",
            "(SELECT id FROM {shard}.a) UNION ALL (SELECT id FROM {shard}.b)",
            "VALUES (1), (2)",
            "SELECT 'insert into; update', E'it\\'s', \"update\" FROM {shard}.t",
            "SELECT x::varchar(10), now() - interval '1 day' FROM {shard}.t WHERE a IN (1, 2)",
            "SELECT EXISTS (SELECT FROM {shard}.follows WHERE who = $1)",
            "SELECT row_number() OVER (PARTITION BY a ORDER BY b) FROM {shard}.t",
            "SELECT count(*) FILTER (WHERE x) FROM {shard}.t",
            "SELECT updated_at, set_id, intro FROM {shard}.t",
            "SELECT p.id, \"p\".\"id\", 1.5, .5, p.* FROM {shard}.t p",
        ] {
            assert_eq!(nature(text), Nature::SingleRead, "{text}");
        }
    }

    #[test]
    fn whatever_may_write_lock_or_change_the_session_is_none() {
        for text in [
            "INSERT INTO {shard}.t VALUES (1)",
            "UPDATE {shard}.t SET a = 1",
            "DELETE FROM {shard}.t",
            "WITH gone AS (DELETE FROM {shard}.t RETURNING id) SELECT * FROM gone",
            "WITH a AS (INSERT INTO {shard}.t DEFAULT VALUES RETURNING id) SELECT id FROM a",
            "WITH a AS (MERGE INTO {shard}.t USING b ON true WHEN MATCHED THEN DELETE) SELECT 1",
            "SELECT * FROM {shard}.t FOR UPDATE",
            "SELECT * FROM {shard}.t for share",
            "SELECT * FROM {shard}.t FOR/**/NO KEY UPDATE",
            "SELECT * INTO {shard}.copy FROM {shard}.t",
            "SELECT {shard}.next_id()",
            "SELECT nextval('{shard}.s')",
            "SELECT setval('{shard}.s', 1)",
            "SELECT pg_advisory_lock(1), * FROM {shard}.t",
            "SELECT pg_sleep(1), * FROM {shard}.t",
            "SELECT set_config('a.b', 'c', false), * FROM {shard}.t",
            "SELECT pg_notify('a', 'b'), * FROM {shard}.t",
            "SELECT count (*) , \"myfunc\" (1) FROM {shard}.t",
            "SELECT {shard}.count(1)",
            "SELECT {shard} . count (1)",
            "SELECT lower /* x */ (a), evil /* y */ (1) FROM {shard}.t",
            "SELECT évil(1) FROM {shard}.t",
            "SELECT id FROM {shard}.t -- x\rFOR UPDATE",
            "SELECT pg_advisory_lock\u{c}(1) FROM {shard}.t",
            "SELECT {shard}.\u{b}count(1)",
            "SELECT (t.id).pg_advisory_lock FROM {shard}.t",
            "SELECT $1.pg_sleep FROM {shard}.t",
            "SELECT a[1].f FROM {shard}.t",
            "SELECT E'a'\n'b\\'', pg_advisory_lock(1) /* ' */ FROM {shard}.t",
            "SELECT U&'d\\0061t' FROM {shard}.t",
            "SELECT {shard}(1)",
            "SELECT {shard}count(1)",
            "SELECT 1 FROM {shard}.t; DELETE FROM {shard}.t",
            "SELECT 1 FROM {shard}.t;;",
            "SELECT 1; SELECT 2 FROM {shard}.t",
            "SELECT 'unfinished FROM {shard}.t",
            "SELECT 1 /* unfinished FROM {shard}.t",
            "SELECT \"unfinished FROM {shard}.t",
            "SELECT $$text$$ FROM {shard}.t",
            "SELECT $a$ text $a$ FROM {shard}.t",
            "SELECT E'\\'', evil(1) FROM {shard}.t",
            "EXPLAIN ANALYZE DELETE FROM {shard}.t",
            "BEGIN",
            "SET search_path = {shard}",
            "LISTEN {shard}",
            "COPY {shard}.t TO STDOUT",
            "CREATE TEMP TABLE a AS SELECT * FROM {shard}.t",
            "DECLARE c CURSOR FOR SELECT * FROM {shard}.t",
            "CALL {shard}.p()",
            "DO 'x'",
            "{shard}.",
            "",
            "-- nothing",
        ] {
            assert_ne!(nature(text), Nature::SingleRead, "{text}");
        }
    }

    #[test]
    fn a_constant_is_classified_when_it_is_compiled() {
        const READ: Nature = nature("SELECT id FROM {shard}.photos WHERE id = $1");
        const WRITE: Nature = nature("DELETE FROM {shard}.photos WHERE id = $1");
        assert_eq!((READ, WRITE), (Nature::SingleRead, Nature::Rows));
    }

    #[test]
    fn what_may_change_the_session_is_told_from_what_changes_rows() {
        for text in [
            "INSERT INTO {shard}.t VALUES (1)",
            " /* why */ update {shard}.t SET a = 1",
            "WITH a AS (DELETE FROM {shard}.t RETURNING id) SELECT * FROM a",
            "(SELECT pg_sleep(1) FROM {shard}.t)",
            "merge into {shard}.t using u on true when matched then delete",
        ] {
            assert_eq!(nature(text), Nature::Rows, "{text}");
        }
        for text in [
            "SELECT pg_advisory_lock(1), * FROM {shard}.t",
            "SELECT * FROM {shard}.t WHERE Pg_Try_Advisory_Lock (id)",
            "WITH a AS (SELECT set_config('a.b', $1, false)) SELECT * FROM a, {shard}.t",
            "SELECT set_config('a.b', $1, NOT true) FROM {shard}.t, u WHERE (true)",
            "SELECT set_config('a.b', 'true', $1) FROM {shard}.t",
            "SELECT set_config('a.b', 'c', (true)) FROM {shard}.t",
            "SELECT setseed(0.5), * FROM {shard}.t",
            "SELECT * INTO TEMP copy FROM {shard}.t",
            "SELECT * INTO /* local */ LOCAL temporary copy FROM {shard}.t",
            "SELECT pg_catalog.\"pg_advisory_lock\"(1) FROM {shard}.t",
        ] {
            assert_eq!(nature(text), Nature::Session, "{text}");
        }
        for text in [
            "SELECT set_config('app.tenant', $1, true) FROM {shard}.t",
            "SELECT set_config('a.b', concat($1, 'it''s', (2)), TRUE ) FROM {shard}.t",
            "SELECT pg_advisory_xact_lock(1), * FROM {shard}.t",
            "INSERT INTO {shard}.temporary_things SELECT set_id FROM {shard}.t",
        ] {
            assert_eq!(nature(text), Nature::Rows, "{text}");
        }
        for text in [
            "SET search_path = {shard}",
            "BEGIN /* {shard} */",
            "COPY {shard}.t FROM STDIN",
            "CREATE TEMP TABLE a AS SELECT * FROM {shard}.t",
            "{shard}.t",
            "/* unfinished {shard}",
        ] {
            assert_eq!(nature(text), Nature::Other, "{text}");
        }
        for text in ["CALL {shard}.p()", "-- why\ndo 'BEGIN {shard}.p(); COMMIT; END'"] {
            assert_eq!(nature(text), Nature::Procedure, "{text}");
        }
        for text in ["CREATE INDEX CONCURRENTLY i ON {shard}.t (id)", "vacuum {shard}.t"] {
            assert_eq!(nature(text), Nature::Gradual, "{text}");
        }
    }
}
