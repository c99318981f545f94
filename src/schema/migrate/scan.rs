//! Finds the commands in a file that would begin or end a transaction.
//!
//! A `COMMIT` half-way through a file would tear the file's changes from their entry in the ledger, so it is found
//! before anything runs. Strings, comments, quoted names and function bodies are passed over as PostgreSQL's own
//! scanner does; whether the rest is valid SQL is the server's to say.

/// The first top-level command that controls a transaction, and its line.
pub(super) fn transaction_command(sql: &str) -> Option<(usize, String)> {
    let mut scanner = Scanner { sql: sql.as_bytes(), at: 0 };
    let mut statement = Statement::default();
    while let Some(token) = scanner.next() {
        match token {
            Token::Word(start) => {
                let word = sql[start..scanner.at].to_ascii_uppercase();
                if let Some(command) = statement.word(word) {
                    return Some((1 + sql[..start].matches('\n').count(), command));
                }
            }
            Token::Open => statement.parentheses += 1,
            Token::Close => statement.parentheses = statement.parentheses.saturating_sub(1),
            Token::Semicolon if statement.parentheses == 0 && statement.body == 0 => {
                if let Some(command) = statement.ends() {
                    return Some((1 + sql[..scanner.at].matches('\n').count(), command));
                }
                statement = Statement::default();
            }
            Token::Semicolon | Token::Other => statement.other(),
        }
    }
    statement.ends().map(|command| (1 + sql.matches('\n').count(), command))
}

/// Whether a command may commit a part of its work and then fail: what it runs is code that may say `COMMIT`.
pub(super) fn may_commit_in_part(sql: &str) -> bool {
    let mut scanner = Scanner { sql: sql.as_bytes(), at: 0 };
    loop {
        match scanner.next() {
            Some(Token::Word(start)) => {
                let word = &sql[start..scanner.at];
                return ["CALL", "DO"].iter().any(|command| word.eq_ignore_ascii_case(command));
            }
            // Empty statements may come before it.
            Some(Token::Semicolon) => {}
            _ => return false,
        }
    }
}

/// What has been seen of the statement at hand.
#[derive(Default)]
struct Statement {
    words: usize,
    /// The first word, while the second decides what it means.
    first: Option<String>,
    last: String,
    parentheses: usize,
    /// How deep in `BEGIN ATOMIC … END`, of which `CASE … END` is a part.
    body: usize,
}

impl Statement {
    /// Takes the next word; answers with the command when it controls a transaction.
    fn word(&mut self, word: String) -> Option<String> {
        self.words += 1;
        if self.words == 1 {
            match word.as_str() {
                "BEGIN" | "COMMIT" | "END" | "ABORT" => return Some(word),
                "START" | "ROLLBACK" | "PREPARE" => self.first = Some(word.clone()),
                _ => {}
            }
        } else if let Some(first) = self.first.take() {
            let harmless = match first.as_str() {
                // ROLLBACK TO a savepoint stays inside; PREPARE a_statement AS … is no matter.
                "ROLLBACK" => word == "TO",
                _ => word != "TRANSACTION",
            };
            if !harmless {
                return Some(format!("{first} {word}"));
            }
        }
        match word.as_str() {
            "ATOMIC" if self.last == "BEGIN" => self.body += 1,
            "CASE" if self.body > 0 => self.body += 1,
            "END" => self.body = self.body.saturating_sub(1),
            _ => {}
        }
        self.last = word;
        None
    }

    /// A sign, number or string: the second word will not come now.
    fn other(&mut self) {
        self.words = self.words.max(1);
        self.last.clear();
    }

    /// The statement is over; `ROLLBACK` alone is a command.
    fn ends(&mut self) -> Option<String> {
        self.first.take().filter(|first| first == "ROLLBACK")
    }
}

enum Token {
    /// A key word or an unquoted name, from here to the scanner's position.
    Word(usize),
    Open,
    Close,
    Semicolon,
    /// A string, a quoted name, a number or a sign.
    Other,
}

struct Scanner<'a> {
    sql: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<Token> {
        self.skip_blanks();
        let start = self.at;
        let byte = *self.sql.get(start)?;
        self.at += 1;
        Some(match byte {
            b'(' => Token::Open,
            b')' => Token::Close,
            b';' => Token::Semicolon,
            b'\'' | b'"' => {
                self.quoted(byte, false);
                Token::Other
            }
            b'$' => {
                self.dollar_quoted();
                Token::Other
            }
            b'0'..=b'9' => {
                self.skip_while(is_word);
                Token::Other
            }
            _ if is_word(byte) => {
                self.skip_while(is_word);
                let escapes = matches!(&self.sql[start..self.at], b"e" | b"E");
                if escapes && self.peek(0) == Some(b'\'') {
                    self.at += 1;
                    self.quoted(b'\'', true);
                    Token::Other
                } else {
                    Token::Word(start)
                }
            }
            _ => Token::Other,
        })
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&wanted) {
            self.at += 1;
        }
    }

    /// White space and comments; those between `/*` and `*/` nest.
    fn skip_blanks(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) if depth > 0 => {
                    depth -= 1;
                    self.at += 2;
                }
                (Some(b'-'), Some(b'-')) if depth == 0 => {
                    self.skip_while(|byte| !matches!(byte, b'\n' | b'\r'))
                }
                (Some(byte), _) if depth > 0 || byte.is_ascii_whitespace() || byte == 0x0b => {
                    self.at += 1
                }
                _ => return,
            }
        }
    }

    /// To the end of a string or a quoted name. A doubled quote is read as two strings, which comes to the same.
    fn quoted(&mut self, quote: u8, escapes: bool) {
        while let Some(byte) = self.peek(0) {
            self.at += if escapes && byte == b'\\' { 2 } else { 1 };
            if byte == quote {
                // In an E string the second half of a doubled quote must be read with its escapes.
                if escapes && self.peek(0) == Some(quote) {
                    self.at += 1;
                } else {
                    return;
                }
            }
        }
    }

    /// To the end of `$tag$ … $tag$`; a parameter such as `$1` is over at once.
    fn dollar_quoted(&mut self) {
        let start = self.at - 1;
        if self.peek(0).is_some_and(|byte| byte.is_ascii_digit()) {
            return;
        }
        self.skip_while(|byte| is_word(byte) && byte != b'$');
        if self.peek(0) != Some(b'$') {
            return;
        }
        self.at += 1;
        let tag = &self.sql[start..self.at];
        let end = self.sql[self.at..].windows(tag.len()).position(|text| text == tag);
        self.at = end.map_or(self.sql.len(), |end| self.at + end + tag.len());
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{may_commit_in_part, transaction_command};

    fn found(sql: &str) -> Option<(usize, String)> {
        transaction_command(sql)
    }

    #[test]
    fn commands_are_found_wherever_a_statement_starts() {
        for (sql, line, command) in [
            ("BEGIN; SELECT 1;", 1, "BEGIN"),
            ("SELECT 1;\n\n  commit", 3, "COMMIT"),
            ("SELECT 1; /* a /* b */ c */ End;", 1, "END"),
            ("SELECT 1; ROLLBACK;", 1, "ROLLBACK"),
            ("SELECT 1; ROLLBACK", 1, "ROLLBACK"),
            ("ROLLBACK AND CHAIN", 1, "ROLLBACK AND"),
            ("start -- now\ntransaction;", 2, "START TRANSACTION"),
            ("PREPARE TRANSACTION 'x';", 1, "PREPARE TRANSACTION"),
            ("SELECT 'it''s'; ABORT", 1, "ABORT"),
            (r"SELECT E'it\'s '';'; ABORT", 1, "ABORT"),
            (r"SELECT 'back\'; COMMIT; --'", 1, "COMMIT"),
            ("SELECT $1; COMMIT", 1, "COMMIT"),
            ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; COMMIT", 1, "COMMIT"),
        ] {
            assert_eq!(found(sql), Some((line, command.to_owned())), "{sql}");
        }
    }

    #[test]
    fn what_only_looks_like_a_command_is_passed_over() {
        for sql in [
            "",
            "SELECT 'a; COMMIT; b'",
            "SELECT E'\\'; COMMIT; '",
            "SELECT \"a; COMMIT; b\"",
            "-- COMMIT;\nSELECT 1",
            "/* ; COMMIT; */ SELECT 1",
            "DO $$ BEGIN; COMMIT; END $$",
            "DO $body$ BEGIN; $$ COMMIT; $$ END $body$;",
            "CREATE FUNCTION f(n int) RETURNS int LANGUAGE sql BEGIN ATOMIC
               SELECT 1; SELECT CASE WHEN n > 0 THEN 1 ELSE 2 END; END;",
            "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b);",
            "SAVEPOINT a; ROLLBACK TO a; RELEASE a",
            "PREPARE p AS SELECT 1",
            "CREATE TABLE commit (begin int, \"end\" int); COMMENT ON TABLE commit IS 'x'",
        ] {
            assert_eq!(found(sql), None, "{sql}");
        }
    }

    #[test]
    fn what_runs_code_may_commit_in_part() {
        for sql in
            ["CALL p()", "-- why\n/* and */ do $$ BEGIN COMMIT; END $$", "; ;Do LANGUAGE x ''"]
        {
            assert!(may_commit_in_part(sql), "{sql}");
        }
        for sql in
            ["", "VACUUM do", "document", "\"call\" p()", "CREATE INDEX CONCURRENTLY i ON t (a)"]
        {
            assert!(!may_commit_in_part(sql), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_scanned_to_its_end(sql in r#"(?s)[ -~é\n'"$;/*eE\\-]{0,80}"#) {
            transaction_command(&sql);
            may_commit_in_part(&sql);
        }
    }
}
