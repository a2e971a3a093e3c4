//! The choice of the node for the next attempt.
//!
//! A call starts with the node that answered last. The hint of a refusal is followed, unless the
//! node it names has just failed; without a hint, the next endpoint of the list is tried.

use std::sync::{Arc, Mutex, PoisonError};

use super::DEFAULT_PORT;
use keyward_core::error::Error;

/// The nodes of one cluster.
pub(super) struct Endpoints {
    known: Vec<Arc<str>>,
    preferred: Mutex<Arc<str>>,
}

impl Endpoints {
    /// # Errors
    /// `BadRequest` if there is none, or one is no `http://host:port` or `https://host:port`.
    pub(super) fn new(endpoints: &[String]) -> Result<Self, Error> {
        let known: Vec<Arc<str>> =
            endpoints.iter().map(|text| normalize(&with_port(text))).collect::<Result<_, _>>()?;
        let Some(first) = known.first() else {
            return Err(Error::bad_request("a client needs at least one endpoint"));
        };
        let preferred = Mutex::new(Arc::clone(first));
        Ok(Self { known, preferred })
    }

    pub(super) fn known(&self) -> &[Arc<str>] {
        &self.known
    }

    /// The node that a call tries first.
    pub(super) fn preferred(&self) -> Arc<str> {
        Arc::clone(&self.preferred.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Remembers the node that answered.
    pub(super) fn prefer(&self, endpoint: &Arc<str>) {
        let mut preferred = self.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        if *preferred != *endpoint {
            *preferred = Arc::clone(endpoint);
        }
    }

    /// The node to try after this one failed, within one call. `failed` are the nodes that failed
    /// so far.
    pub(super) fn after(
        &self,
        endpoint: &Arc<str>,
        hint: Option<&str>,
        failed: &[Arc<str>],
    ) -> Arc<str> {
        let hint = hint.and_then(|hint| normalize(hint).ok());
        // Nobody who encrypts follows a hint that does not.
        let is_secure = |endpoint: &Arc<str>| endpoint.starts_with("https://");
        let hint = hint.filter(|hint| is_secure(hint) || !self.known.iter().all(is_secure));
        if let Some(hint) = hint.filter(|hint| !failed.contains(hint)) {
            return hint;
        }
        let at = self.known.iter().position(|known| known == endpoint);
        let next = at.map_or(0, |at| (at + 1) % self.known.len());
        Arc::clone(&self.known[next])
    }
}

/// An endpoint that a person wrote, with [`DEFAULT_PORT`] if it names none: nobody means port 80 of
/// a lock service by `http://a`. The address that a node reports is taken as it is.
pub fn with_port(text: &str) -> String {
    let text = text.trim();
    let after_scheme = text.find("://").map_or(0, |at| at + 3);
    let (start, rest) = text.split_at(after_scheme);
    let (authority, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // After the bracket of an IPv6 address, if it is one.
    let host_end = authority.rfind(']').map_or(0, |at| at + 1);
    if authority.is_empty() || authority[host_end..].contains(':') {
        return text.to_owned();
    }
    format!("{start}{authority}:{DEFAULT_PORT}{tail}")
}

/// Normalizes an endpoint for comparison and for use before a path: scheme, host and port, no
/// slash.
pub(super) fn normalize(text: &str) -> Result<Arc<str>, Error> {
    let wrong = |why: &str| Err(Error::bad_request(format!("endpoint {text:?}: {why}")));
    let trimmed = text.trim();
    let with_scheme =
        if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
    let Ok(url) = reqwest::Url::parse(&with_scheme) else {
        return wrong("not a URL such as http://host:7420");
    };
    match url.scheme() {
        "http" | "https" => {}
        _ => return wrong("the scheme must be http or https"),
    }
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !bare || !url.username().is_empty() || url.password().is_some() || !url.has_host() {
        return wrong("only scheme, host and port are wanted, such as http://host:7420");
    }
    Ok(Arc::from(url.as_str().trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_scheme_host_and_port() {
        let good = [
            ("http://a:7420", "http://a:7420"),
            ("http://A:7420/", "http://a:7420"),
            ("a:7420", "http://a:7420"),
            (" 127.0.0.1:1 ", "http://127.0.0.1:1"),
            ("http://[::1]:9", "http://[::1]:9"),
            ("localhost", "http://localhost"),
            ("HTTPS://a:7420/", "https://a:7420"),
        ];
        for (text, expected) in good {
            assert_eq!(&*normalize(text).unwrap(), expected, "{text}");
        }
        for text in ["", "http://", "ftp://a", "http://a/v1", "http://u:p@a", "a b"] {
            assert!(normalize(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_hint_without_tls_is_not_followed_by_a_client_with() {
        let after = |endpoints: &[&str], hint: &str| {
            let endpoints: Vec<String> = endpoints.iter().map(|&text| text.to_owned()).collect();
            let endpoints = Endpoints::new(&endpoints).unwrap();
            endpoints.after(&endpoints.preferred(), Some(hint), &[]).to_string()
        };
        let secure = ["https://a:1", "https://b:1"];
        assert_eq!(after(&secure, "http://c:1"), "https://b:1");
        assert_eq!(after(&secure, "https://c:1"), "https://c:1");
        assert_eq!(after(&["https://a:1", "http://b:1"], "http://c:1"), "http://c:1");
    }

    #[test]
    fn an_endpoint_without_a_port_has_the_usual_one() {
        let table = [
            ("http://a", "http://a:7420"),
            (" a ", "a:7420"),
            ("http://a/", "http://a:7420/"),
            ("http://[::1]", "http://[::1]:7420"),
            ("[::1]", "[::1]:7420"),
            ("http://a:80", "http://a:80"),
            ("a:1/", "a:1/"),
            ("http://", "http://"),
            ("", ""),
        ];
        for (text, expected) in table {
            assert_eq!(with_port(text), expected, "{text}");
        }
        let endpoints = Endpoints::new(&["http://a".to_owned(), "http://b:80".to_owned()]).unwrap();
        let known: Vec<&str> = endpoints.known().iter().map(|known| &**known).collect();
        assert_eq!(known, ["http://a:7420", "http://b"], "80 is what URLs leave out");
    }

    #[test]
    fn a_hint_is_followed_unless_its_node_has_just_failed() {
        let list = ["http://a:1", "http://b:1", "http://c:1"];
        let endpoints = Endpoints::new(&list.map(String::from)).unwrap();
        let [a, b, c] = [0, 1, 2].map(|at| Arc::clone(&endpoints.known()[at]));
        assert_eq!(endpoints.after(&a, None, &[]), b);
        assert_eq!(endpoints.after(&c, None, &[]), a);
        assert_eq!(endpoints.after(&a, Some("http://c:1/"), &[]), c);
        assert_eq!(endpoints.after(&a, Some("http://c:1"), &[Arc::clone(&c)]), b);
        assert_eq!(endpoints.after(&a, Some("not a url"), &[]), b);
        let stranger = endpoints.after(&a, Some("http://d:1"), &[]);
        assert_eq!(&*stranger, "http://d:1", "an address outside the list may be hinted");
        assert_eq!(endpoints.after(&stranger, None, &[]), a);
    }
}
