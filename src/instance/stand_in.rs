//! `{port}`, `{data}` and `{role}` in a command and its environment. Pure.

use super::Role;

/// What the stand-ins stand for.
#[derive(Clone, Copy, Debug)]
pub struct StandIns<'a> {
    pub port: u16,
    /// The data directory; `None`: it has none, and the stand-in stays as it is.
    pub data: Option<&'a str>,
    pub role: Role,
}

const KNOWN: [&str; 3] = ["port", "data", "role"];

// === impl StandIns ===

impl StandIns<'_> {
    /// In one pass, so that what was put in is not read again. Whatever else is in braces stays as it is: JSON and
    /// shells have uses of their own for them.
    pub fn apply(&self, text: &str) -> String {
        let mut made = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, name, after)) = next(rest) {
            made.push_str(before);
            match name {
                "port" => made.push_str(&self.port.to_string()),
                "role" => made.push_str(self.role.as_str()),
                "data" if self.data.is_some() => made.push_str(self.data.unwrap_or_default()),
                other => {
                    made.push('{');
                    made.push_str(other);
                    made.push('}');
                }
            }
            rest = after;
        }
        made.push_str(rest);
        made
    }
}

/// Names in braces that look like stand-ins and stand for nothing: most likely mistyped.
pub fn unknown(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, name, after)) = next(rest) {
        if !KNOWN.contains(&name) {
            found.push(name);
        }
        rest = after;
    }
    found
}

/// What is before the next name in braces, the name, and what follows.
fn next(text: &str) -> Option<(&str, &str, &str)> {
    for (at, _) in text.match_indices('{') {
        let (before, rest) = (text.get(..at)?, text.get(at + 1..)?);
        let (name, after) = rest.split_once('}')?;
        if !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return Some((before, name, after));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: StandIns<'_> = StandIns { port: 3000, data: Some("/d/{port}"), role: Role::Shadow };

    #[test]
    fn stand_ins_are_replaced_once_and_other_braces_stay() {
        for (text, expected) in [
            ("127.0.0.1:{port}", "127.0.0.1:3000"),
            ("{port}{role}", "3000shadow"),
            ("--db={data}/x", "--db=/d/{port}/x"),
            ("{{port}}", "{3000}"),
            ("{\"a\":{port}}", "{\"a\":3000}"),
            ("${HOME} {} { port } {prot} {", "${HOME} {} { port } {prot} {"),
        ] {
            assert_eq!(HERE.apply(text), expected, "{text}");
        }
        assert_eq!(StandIns { data: None, ..HERE }.apply("{data}:{port}"), "{data}:3000");
    }

    #[test]
    fn mistyped_ones_are_named() {
        assert_eq!(unknown("{prot} {port} ${HOME} {\"a\":1} {dta}"), ["prot", "dta"]);
    }

    proptest! {
        #[test]
        fn a_text_without_known_names_stays(text in "[{}a-o \"]{0,30}") {
            prop_assert_eq!(HERE.apply(&text), text);
        }
    }
}
