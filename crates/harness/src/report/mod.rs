//! Pages for people: each is one self-contained HTML file that has no script and loads nothing.
//!
//! [`page`] is the frame with the style that all pages share, [`legend`] the names of colours. The
//! content of a page belongs to its module: `keyward bench --report` shows measurements, the checker
//! of histories its verdicts. maud escapes text where it is inserted; text from outside also passes
//! through [`visible`].

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The style of every page.
const STYLE: &str = include_str!("style.css");

/// The content security policy: nothing is fetched and nothing runs, even after an injection.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A page as HTML, with its own style after the shared one.
pub fn page(title: &str, style: &'static str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (visible(title)) }
                style { (PreEscaped(STYLE)) (PreEscaped(style)) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

/// Names, each behind its colour, which is a value of CSS.
pub fn legend<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Markup {
    html! {
        @for (name, colour) in entries {
            span { i style={ "background:" (colour) } {} (visible(name)) }
        }
    }
}

/// A name with control characters, and those that reorder text, written as escapes.
pub fn visible(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || reorders {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_escapes_text_and_loads_nothing() {
        let body = html! { p title="\"'" { "<script>" } (legend([("a<b", "#fff")])) };
        let page = page("<title>\u{202e}", "p{}", &body);
        for shown in [
            "<title>&lt;title&gt;\\u{202e}</title>",
            "p{}</style>",
            "<p title=\"&quot;'\">&lt;script&gt;</p>",
            "<i style=\"background:#fff\"></i>a&lt;b",
            "default-src 'none'",
        ] {
            assert!(page.contains(shown), "{shown} is not in {page}");
        }
        assert!(!page.contains("<script"), "{page}");
    }
}
