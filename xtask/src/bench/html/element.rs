// SPDX-License-Identifier: MIT OR Apache-2.0

//! Elements of HTML and SVG: every tag that is opened is closed, and every text is escaped.

use std::fmt;

/// Elements of HTML that have no end tag.
const VOID: [&str; 1] = ["meta"];
/// The one whose text is no text to HTML, but must not contain its own end.
const RAW: &str = "style";

/// An element.
#[derive(Clone, Debug)]
pub struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    /// Escaped text, or elements as they are written.
    content: String,
}

/// An element without attributes and content.
pub fn element(name: &'static str) -> Element {
    Element {
        name,
        attributes: Vec::new(),
        content: String::new(),
    }
}

impl Element {
    /// Sets an attribute.
    pub fn set(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// Adds an element.
    pub fn with(mut self, inner: Self) -> Self {
        self.content.push_str(&inner.to_string());
        // What stands in a line of its own can be compared.
        if ["tr", "svg", "table", "li", "p", "figure"].contains(&inner.name) {
            self.content.push('\n');
        }
        self
    }

    /// Adds text.
    pub fn text(mut self, text: &str) -> Self {
        match self.name {
            RAW => self.content.push_str(text),
            _ => self.content.push_str(&escaped(text)),
        }
        self
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}", self.name)?;
        for (name, value) in &self.attributes {
            write!(f, " {name}=\"{}\"", escaped(value))?;
        }
        if VOID.contains(&self.name) {
            return f.write_str(">");
        }
        write!(f, ">{}</{}>", self.content, self.name)
    }
}

/// For a place where markup is read: between tags, and in a quoted attribute.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Panics unless every tag is closed where it should be, and no character stands there that should be escaped.
    pub fn check(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap_or(page);
        while let Some(at) = rest.find('<') {
            let (text, tag) = rest.split_at(at);
            assert!(!text.contains('>'), "`{text}` is not escaped");
            for entity in text.split('&').skip(1) {
                assert!(
                    ["lt;", "gt;", "amp;", "quot;"]
                        .iter()
                        .any(|known| entity.starts_with(known)),
                    "{entity}"
                );
            }
            let end = tag
                .find('>')
                .unwrap_or_else(|| panic!("`{tag}` does not end"));
            let inside = &tag[1..end];
            assert!(!inside.contains('<'), "`{inside}` is not escaped");
            assert!(
                inside.matches('"').count().is_multiple_of(2),
                "`{inside}` has an open quote"
            );
            match inside.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None => {
                    let name = inside.split(' ').next().unwrap_or_default();
                    if !VOID.contains(&name) {
                        open.push(name);
                    }
                }
            }
            rest = &tag[end + 1..];
        }
        assert_eq!(open, [""; 0], "tags are left open");
    }

    #[test]
    fn elements_nest_and_texts_are_escaped() {
        let inner = element("b").text("1 < 2").set("title", "\"&\"");
        let page = element("p").with(inner).text(" & so on").to_string();
        assert_eq!(
            page,
            "<p><b title=\"&quot;&amp;&quot;\">1 &lt; 2</b> &amp; so on</p>"
        );
        check(&page);
        assert_eq!(
            element("meta").set("charset", "utf-8").to_string(),
            "<meta charset=\"utf-8\">"
        );
    }

    #[test]
    fn the_check_finds_what_is_wrong() {
        for wrong in [
            "<p>",
            "<p></b>",
            "</p>",
            "<p>a > b</p>",
            "<p>a & b</p>",
            "<p title=\"></p>",
            "<p",
        ] {
            assert!(
                std::panic::catch_unwind(|| check(wrong)).is_err(),
                "{wrong}"
            );
        }
        check("<p title=\"a\">b<i></i></p>");
    }
}
