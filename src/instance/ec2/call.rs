//! A call of the Query API: an action and its parameters, written as a form. Pure.

use std::fmt::{self, Write as _};

/// The only one since 2016.
const VERSION: &str = "2016-11-15";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub action: &'static str,
    parameters: Vec<(String, String)>,
    filters: usize,
}

impl Call {
    pub fn new(action: &'static str) -> Self {
        Self { action, parameters: Vec::new(), filters: 0 }
    }

    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.parameters.push((name.into(), value.to_string()));
        self
    }

    #[must_use]
    pub fn with_some(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// `name.1`, `name.2` …
    #[must_use]
    pub fn list(self, name: &str, values: impl IntoIterator<Item = impl fmt::Display>) -> Self {
        let numbered = values.into_iter().zip(1..);
        numbered.fold(self, |call, (value, n)| call.with(format!("{name}.{n}"), value))
    }

    /// Keeps what has one of these values there.
    #[must_use]
    pub fn filter(mut self, name: &str, values: &[&str]) -> Self {
        self.filters += 1;
        let filter = format!("Filter.{}", self.filters);
        self.with(format!("{filter}.Name"), name).list(&format!("{filter}.Value"), values)
    }

    #[must_use]
    pub fn tags(self, of: &str, tags: &[(&str, String)]) -> Self {
        tags.iter().zip(1..).fold(self, |call, ((key, value), n)| {
            call.with(format!("{of}.{n}.Key"), key).with(format!("{of}.{n}.Value"), value)
        })
    }

    pub fn form(&self) -> String {
        let mut form = format!("Action={}&Version={VERSION}", self.action);
        for (name, value) in &self.parameters {
            form.push('&');
            form.push_str(name);
            form.push('=');
            encode(value, &mut form);
        }
        form
    }
}

fn encode(value: &str, into: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            into.push(char::from(byte));
        } else if byte == b' ' {
            into.push('+');
        } else {
            // Writing to a string cannot fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_a_form() {
        let call = Call::new("Describe")
            .list("Id", ["i-1", "i-2"])
            .filter("tag:segue:store", &["a b"])
            .filter("state", &["x", "y"])
            .tags("Tag", &[("k", "v=ü&".to_owned())])
            .with_some("Gone", None::<&str>)
            .with("DryRun", true);
        assert_eq!(
            call.form(),
            "Action=Describe&Version=2016-11-15&Id.1=i-1&Id.2=i-2&Filter.1.Name=tag%3Asegue%3Astore&\
             Filter.1.Value.1=a+b&Filter.2.Name=state&Filter.2.Value.1=x&Filter.2.Value.2=y&Tag.1.Key=k&\
             Tag.1.Value=v%3D%C3%BC%26&DryRun=true"
        );
    }
}
