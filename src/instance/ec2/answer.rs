//! What the API answers: XML in which a list is an element with children `item`.

use roxmltree::{Document, Node};

/// An element of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'d>(Node<'d, 'd>);

/// What the API said no with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub code: String,
    pub message: String,
}

/// `None`: it is no XML.
pub(super) fn read<T>(text: &str, look: impl FnOnce(Part<'_>) -> T) -> Option<T> {
    let document = Document::parse(text).ok()?;
    Some(look(Part(document.root_element())))
}

pub(super) fn refusal(text: &str) -> Option<Refusal> {
    read(text, |root| {
        let error = root.0.descendants().find(|node| node.tag_name().name() == "Error").map(Part)?;
        Some(Refusal {
            code: error.text("Code")?.to_owned(),
            message: error.text("Message").unwrap_or_default().to_owned(),
        })
    })?
}

impl<'d> Part<'d> {
    pub fn child(self, name: &str) -> Option<Self> {
        self.0.children().find(|node| node.is_element() && node.tag_name().name() == name).map(Self)
    }

    /// Of the child of that name; `None` as well if there is nothing in it.
    pub fn text(self, name: &str) -> Option<&'d str> {
        self.child(name)?.0.text().map(str::trim).filter(|text| !text.is_empty())
    }

    pub fn owned(self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// Of the list of that name; empty if there is none.
    pub fn items(self, name: &str) -> impl Iterator<Item = Part<'d>> {
        let list = self.child(name);
        list.into_iter().flat_map(|list| list.0.children().filter(Node::is_element).map(Part))
    }

    /// Of the list of that name, whose items are texts.
    pub fn texts(self, name: &str) -> impl Iterator<Item = &'d str> {
        self.items(name).filter_map(|item| item.0.text()).map(str::trim)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_and_texts_are_found_by_name_whatever_the_namespace() {
        let text = r#"<?xml version="1.0"?><R xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
            <set><item><id> a </id></item><item><id>b&amp;c</id><id2/></item></set>
            <words><item>x</item><item>y</item></words></R>"#;
        let (ids, words, none) = read(text, |root| {
            let ids: Vec<_> = root.items("set").filter_map(|item| item.owned("id")).collect();
            let words: Vec<_> = root.texts("words").map(str::to_owned).collect();
            (ids, words, root.items("nothing").count())
        })
        .unwrap();
        assert_eq!((ids, words, none), (vec!["a".into(), "b&c".into()], vec!["x".into(), "y".into()], 0));
    }

    #[test]
    fn a_refusal_has_a_code_and_a_message() {
        let text = "<Response><Errors><Error><Code>AuthFailure</Code><Message>who?</Message></Error></Errors>\
                    <RequestID>1</RequestID></Response>";
        let refusal = refusal(text).unwrap();
        assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("AuthFailure", "who?"));
        assert_eq!(super::refusal("<html><body>Bad gateway</body></html>"), None);
        assert_eq!(super::refusal("Bad gateway"), None);
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(text in "[<>/!&;a-zE \\[\\]\"=?-]{0,60}") {
            refusal(&text);
        }
    }
}
